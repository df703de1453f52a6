#include "runtime/checkpoint/strict_json.h"

#include <string>
#include <unordered_set>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/checkpoint/shown.h"

namespace kt {
namespace {

using nlohmann::json;

// First pass over a text: refuses what parse_strict_json refuses and keeps nothing. A parser callback could do this in
// the one pass, but nlohmann-json then looks through the parent for each object that ends: quadratic in the tensors.
class Watch : public nlohmann::json_sax<json> {
 public:
  Watch(std::string_view where, size_t max_depth) : where_(where), keys_(max_depth) {}

  bool start_object(size_t) override { return open(); }
  bool start_array(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    if (!keys_[depth_ - 1].insert(name).second) fail(kExitModel, "{}: {} appears twice", where_, shown(name));
    return true;
  }
  bool parse_error(size_t, const std::string&, const json::exception& e) override {
    fail(kExitModel, "{}: not valid JSON: {}", where_, std::string_view(e.what()).substr(0, 300));
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(json::number_integer_t) override { return true; }
  bool number_unsigned(json::number_unsigned_t) override { return true; }
  bool number_float(json::number_float_t, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(json::binary_t&) override { return true; }

 private:
  bool open() {
    if (depth_ == keys_.size()) fail(kExitModel, "{}: nested deeper than {} levels", where_, keys_.size());
    keys_[depth_++].clear();
    return true;
  }
  bool close() { return --depth_, true; }

  std::string_view where_;
  size_t depth_ = 0;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects that are open, by depth
};

}  // namespace

json parse_strict_json(std::string_view text, std::string_view where, size_t max_depth) {
  Watch watch(where, max_depth);
  json::sax_parse(text, &watch);
  return json::parse(text);
}

}  // namespace kt
