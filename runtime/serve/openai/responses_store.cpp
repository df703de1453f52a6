#include "runtime/serve/openai/responses_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/errors.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

constexpr size_t kEntryBytes = 1024;  // of the maps and lists that a response is in; an item's id is in two

std::vector<std::string> ids_of(const Json& items) {
  std::vector<std::string> ids;
  for (const Json& item : items) {
    if (const auto id = item.find("id"); id != item.end() && id->is_string()) ids.push_back(id->get<std::string>());
  }
  return ids;
}

BadRequest not_found(const std::string& id, const std::string& asked) {
  std::string message = fmt::format("Previous response with id '{}' not found.", asked);
  if (id != asked) message = fmt::format("Response '{}', from which '{}' goes on, is not stored any more.", id, asked);
  return {"previous_response_id", message + " Send the whole conversation as input.", "previous_response_not_found"};
}

}  // namespace

Json items_of(const StoredResponse& response) {
  Json items = parse_exact(response.input);
  Json answer = parse_exact(response.response);
  for (Json& item : answer["output"]) items.push_back(std::move(item));
  return items;
}

void ResponseStore::put(StoredResponse response) {
  std::vector<std::string> items = ids_of(items_of(response));
  size_t bytes = kEntryBytes + response.input.size() + response.response.size();
  for (const std::string& id : items) bytes += 2 * (id.size() + 64);

  const std::lock_guard lock(mutex_);
  const std::string id = response.id;
  remove(id);
  ages_.push_front(id);
  for (const std::string& item : items) response_of_[item] = id;
  entries_[id] = {std::make_shared<const StoredResponse>(std::move(response)), std::move(items), bytes, ages_.begin()};
  bytes_ += bytes;
  while (bytes_ > max_bytes_) remove(std::string(ages_.back()));
}

std::shared_ptr<const StoredResponse> ResponseStore::find(const std::string& id, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  return touch(id, owner);
}

bool ResponseStore::erase(const std::string& id, const std::string& owner) {
  const std::lock_guard lock(mutex_);
  const bool found = touch(id, owner) != nullptr;
  if (found) remove(id);
  return found;
}

// The chain is walked from its end, so that in the order of use its oldest response comes first: what is forgotten next
// is never one that a kept one goes on from.
Json ResponseStore::history(const std::string& id, const std::string& owner) {
  std::vector<std::shared_ptr<const StoredResponse>> chain;
  {
    const std::lock_guard lock(mutex_);
    for (std::string at = id; !at.empty(); at = chain.back()->previous) {
      auto found = touch(at, owner);
      if (!found) throw not_found(at, id);
      if (found->in_progress)
        throw BadRequest("previous_response_id", fmt::format("Response '{}' is still in progress.", at));
      chain.push_back(std::move(found));
    }
  }
  Json items = Json::array();
  for (auto turn = chain.rbegin(); turn != chain.rend(); ++turn)
    for (Json& item : items_of(**turn)) items.push_back(std::move(item));
  return items;
}

std::optional<Json> ResponseStore::item(const std::string& id, const std::string& owner) {
  std::shared_ptr<const StoredResponse> found;
  {
    const std::lock_guard lock(mutex_);
    const auto of = response_of_.find(id);
    if (of == response_of_.end()) return std::nullopt;
    found = touch(of->second, owner);
  }
  if (!found) return std::nullopt;
  for (Json& item : items_of(*found))
    if (item.value("id", "") == id) return std::move(item);
  return std::nullopt;
}

std::shared_ptr<const StoredResponse> ResponseStore::touch(const std::string& id, const std::string& owner) {
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.response->owner != owner) return nullptr;
  ages_.splice(ages_.begin(), ages_, found->second.age);
  return found->second.response;
}

void ResponseStore::remove(const std::string& id) {
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  Entry& entry = found->second;
  for (const std::string& item : entry.items) {
    if (const auto of = response_of_.find(item); of != response_of_.end() && of->second == id) response_of_.erase(of);
  }
  bytes_ -= entry.bytes;
  ages_.erase(entry.age);
  entries_.erase(found);
}

}  // namespace kt
