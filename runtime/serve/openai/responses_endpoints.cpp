#include "runtime/serve/openai/responses_endpoints.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "runtime/serve/errors.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

constexpr size_t kPage = 20, kMaxPage = 100;  // items of a list

HttpResponse not_found(const std::string& id) {
  return error_response({404, fmt::format("Response with id '{}' not found.", id), "", "not_found"});
}

std::string query_or(const HttpRequest& request, const char* name, const char* otherwise) {
  const auto found = request.query.find(name);
  return found == request.query.end() ? otherwise : found->second;
}

size_t read_limit(const HttpRequest& request) {
  const std::string text = query_or(request, "limit", "");
  size_t limit = kPage;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), limit);
  if (!text.empty() && (error != std::errc() || end != text.data() + text.size() || limit < 1 || limit > kMaxPage))
    throw BadRequest("limit", fmt::format("limit: expected a number from 1 to {}, found \"{}\"", kMaxPage, text));
  return limit;
}

std::string page_of(const HttpRequest& request, Json items) {
  const std::string order = query_or(request, "order", "desc"), after = query_or(request, "after", "");
  if (order != "asc" && order != "desc")
    throw BadRequest("order", fmt::format("order: \"{}\" is none of asc, desc", order));
  if (order == "desc") std::reverse(items.begin(), items.end());
  size_t begin = 0;
  if (!after.empty()) {
    while (begin < items.size() && items[begin]["id"] != after) ++begin;
    if (begin++ == items.size())
      throw BadRequest("after", fmt::format("after: the response has no item \"{}\"", after));
  }
  const size_t end = std::min(items.size(), begin + read_limit(request));
  Json data = Json::array();
  for (size_t i = begin; i < end; ++i) data.push_back(std::move(items[i]));
  const auto id_of = [&](size_t i) { return data.empty() ? Json(nullptr) : data[i]["id"]; };
  const Json first = id_of(0), last = id_of(data.size() - 1);
  return dump({{"object", "list"},
               {"data", std::move(data)},
               {"first_id", first},
               {"last_id", last},
               {"has_more", end < items.size()}});
}

}  // namespace

HttpResponse show_response(const HttpRequest& request, const std::string& id, ResponseStore& store,
                           const std::string& owner) {
  const auto found = store.find(id, owner);
  if (!found) return not_found(id);
  if (query_or(request, "stream", "false") == "true")
    return error_response(
        {400, "stream: only a response that is asked for is streamed; leave it out", "stream", "unsupported"});
  return {.body = found->response};
}

HttpResponse forget_response(const std::string& id, ResponseStore& store, const std::string& owner) {
  if (!store.erase(id, owner)) return not_found(id);
  return {.body = dump({{"id", id}, {"object", "response"}, {"deleted", true}})};
}

HttpResponse list_input_items(const HttpRequest& request, const std::string& id, ResponseStore& store,
                              const std::string& owner) {
  const auto found = store.find(id, owner);
  if (!found) return not_found(id);
  const OrError<std::string> page = or_error([&] { return page_of(request, parse_exact(found->input)); });
  if (const ApiError* error = std::get_if<ApiError>(&page)) return error_response(*error);
  return {.body = std::get<std::string>(page)};
}

Outcome cancel_response(const std::string& id, ResponseStore& store, const std::string& owner) {
  const auto found = store.find(id, owner);
  if (!found) return not_found(id);
  if (!found->in_progress)
    return error_response({400, fmt::format("Response '{}' has ended and cannot be cancelled.", id), "", ""});
  Json response = parse_exact(found->response);
  response["status"] = "cancelled";
  return AbortCommand{.rid = id, .answer = dump(response)};
}

}  // namespace kt
