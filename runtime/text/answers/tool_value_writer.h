#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "runtime/text/answers/tool_values.h"

namespace kt {

// Turns the text of one parameter into JSON text as it comes. Strings go out piece by piece; what may be another type
// goes out at its end.
class ValueWriter {
 public:
  static ValueWriter string() { return ValueWriter(kStringType, false); }
  static ValueWriter json() { return ValueWriter(0, true); }  // the model says that it is JSON
  static ValueWriter typed(JsonTypes types) { return ValueWriter(types, false); }

  std::string add(std::string_view text) {
    if (streams_) return json_escaped(text);
    held_ += text;
    if (is_json_ || !(types_ & kStringType) || may_be_other_type()) return "";
    streams_ = true;
    return '"' + json_escaped(std::exchange(held_, {}));
  }

  std::string end() {
    if (streams_) return "\"";
    return is_json_ ? json_value(held_) : typed_value(types_, held_);
  }

 private:
  ValueWriter(JsonTypes types, bool is_json) : types_(types), is_json_(is_json) {}

  // Where a string may also be a number, boolean or null, this many bytes tell; an object or array only its end.
  static constexpr size_t kLongestScalar = 64;

  bool may_be_other_type() const {
    if (types_ == kStringType || types_ == kAnyType) return false;
    if ((types_ & kObjectType) && held_.starts_with('{')) return true;
    if ((types_ & kArrayType) && held_.starts_with('[')) return true;
    return held_.size() <= kLongestScalar;
  }

  JsonTypes types_;
  bool is_json_;
  bool streams_ = false;
  std::string held_;
};

}  // namespace kt
