#include "runtime/checkpoint/strict_json.h"

#include <string>
#include <unordered_set>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/checkpoint/shown.h"

namespace kt {

using nlohmann::json;

json parse_strict_json(std::string_view text, std::string_view where, size_t max_depth) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects (arrays: empty) that are open
  const auto watch = [&](int, json::parse_event_t event, json& value) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        keys.emplace_back();
        if (keys.size() > max_depth) fail(kExitModel, "{}: nested deeper than {} levels", where, max_depth);
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end: keys.pop_back(); break;
      case json::parse_event_t::key: {
        const auto& key = value.get_ref<const std::string&>();
        if (!keys.back().insert(key).second) fail(kExitModel, "{}: {} appears twice", where, shown(key));
        break;
      }
      case json::parse_event_t::value: break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& e) {
    fail(kExitModel, "{}: not valid JSON: {}", where, std::string_view(e.what()).substr(0, 300));
  }
}

}  // namespace kt
