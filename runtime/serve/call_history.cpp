#include "runtime/serve/call_history.h"

#include <map>
#include <string>

namespace kt {

int number_calls(Json& messages, const ToolFormat* format) {
  const bool rename = format && format->ids_name_the_function;
  std::map<std::string, std::string> renamed;  // the client's id -> ours; of calls with the same id the latest counts
  int count = 0;
  for (Json& message : messages) {
    if (const auto calls = message.find("tool_calls"); calls != message.end()) {
      for (Json& call : *calls) {
        const int k = count++;
        if (!rename) continue;
        const std::string id = tool_call_id(*format, call["function"]["name"].get<std::string>(), k, "");
        const auto given = call.find("id");
        if (given != call.end() && given->is_string()) renamed[given->get<std::string>()] = id;
        call["id"] = id;
      }
    }
    const auto result = message.find("tool_call_id");
    if (!rename || result == message.end() || !result->is_string()) continue;
    if (const auto known = renamed.find(result->get<std::string>()); known != renamed.end()) *result = known->second;
  }
  return count;
}

}  // namespace kt
