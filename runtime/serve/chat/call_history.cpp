#include "runtime/serve/chat/call_history.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "runtime/serve/chat/content_blocks.h"

namespace kt {
namespace {

constexpr size_t kNone = SIZE_MAX;

bool is_result(const Json& message) { return message["role"] == "tool"; }

std::string id_in(const Json& object, const char* member) {
  const auto id = object.find(member);
  return id != object.end() && id->is_string() ? id->get<std::string>() : "";
}

class Order {
 public:
  explicit Order(Json messages) : messages_(std::move(messages)), taken_(messages_.size()) {
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (is_result(messages_[i])) results_[id_in(messages_[i], "tool_call_id")].push_back(i);
      if (!has_calls(messages_[i])) continue;
      for (const Json& call : messages_[i]["tool_calls"]) {
        std::vector<size_t>& callers = callers_[id_in(call, "id")];
        if (callers.empty() || callers.back() != i) callers.push_back(i);
      }
    }
  }

  Json take() {
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (taken_[i]) continue;
      if (is_result(messages_[i])) {
        const std::string text = text_of(messages_[i]["content"], " ");
        ordered_.push_back({{"role", "user"}, {"content", "[result of an earlier tool call]\n" + text}});
      } else if (has_calls(messages_[i])) {
        add_calls(i);
      } else {
        ordered_.push_back(std::move(messages_[i]));
      }
    }
    return std::move(ordered_);
  }

 private:
  void add_calls(size_t caller) {
    Json& calls = messages_[caller]["tool_calls"];
    std::vector<size_t> answers;
    for (const Json& call : calls) answers.push_back(answer_of(id_in(call, "id"), caller));
    answer_the_rest(caller, answers);

    Json results = Json::array();
    for (size_t k = 0; k < calls.size(); ++k) {
      std::string id = id_in(calls[k], "id");
      if (id.empty()) id = fmt::format("call_{}", calls_);
      ++calls_;
      calls[k]["id"] = id;
      Json result =
          answers[k] == kNone ? Json{{"role", "tool"}, {"content", "[no result]"}} : std::move(messages_[answers[k]]);
      result["tool_call_id"] = std::move(id);
      results.push_back(std::move(result));
    }
    const bool open = caller + 1 == messages_.size();  // nothing came behind it yet
    ordered_.push_back(std::move(messages_[caller]));
    if (open) return;
    for (Json& result : results) ordered_.push_back(std::move(result));
  }

  // The first result with this id, before another message calls with it.
  size_t answer_of(const std::string& id, size_t caller) {
    if (id.empty()) return kNone;
    const std::vector<size_t>& callers = callers_[id];
    const auto next = std::upper_bound(callers.begin(), callers.end(), caller);
    const size_t end = next == callers.end() ? messages_.size() : *next;
    std::deque<size_t>& results = results_[id];
    while (!results.empty() && results.front() < caller) results.pop_front();
    if (results.empty() || results.front() >= end) return kNone;
    const size_t result = results.front();
    results.pop_front();
    taken_[result] = true;
    return result;
  }

  // Results that name no call of the conversation go to the calls before them, in order.
  void answer_the_rest(size_t caller, std::vector<size_t>& answers) {
    auto open = std::find(answers.begin(), answers.end(), kNone);
    for (size_t i = caller + 1; i < messages_.size() && open != answers.end(); ++i) {
      if (taken_[i]) continue;
      if (has_calls(messages_[i])) return;
      if (!is_result(messages_[i])) continue;
      const std::string id = id_in(messages_[i], "tool_call_id");
      if (!id.empty() && callers_.contains(id)) continue;
      taken_[i] = true;
      *open = i;
      open = std::find(open, answers.end(), kNone);
    }
  }

  Json messages_;
  std::vector<bool> taken_;                             // by a call
  std::map<std::string, std::deque<size_t>> results_;   // indices of results, by the id that they name
  std::map<std::string, std::vector<size_t>> callers_;  // indices of messages with calls, by their ids
  Json ordered_ = Json::array();
  int calls_ = 0;
};

}  // namespace

Json order_results(Json messages) { return Order(std::move(messages)).take(); }

int number_calls(Json& messages, const ToolFormat* format) {
  const bool rename = format && format->ids_name_the_function;
  int count = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!has_calls(messages[i])) continue;
    Json& calls = messages[i]["tool_calls"];
    for (size_t k = 0; k < calls.size(); ++k) {
      const int number = count++;
      if (!rename) continue;
      const std::string id = tool_call_id(*format, calls[k]["function"]["name"].get<std::string>(), number, "");
      calls[k]["id"] = id;
      if (i + 1 + k < messages.size() && is_result(messages[i + 1 + k])) messages[i + 1 + k]["tool_call_id"] = id;
    }
  }
  return count;
}

}  // namespace kt
