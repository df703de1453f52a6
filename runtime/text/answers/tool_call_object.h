#pragma once

#include <string>
#include <string_view>

#include "runtime/text/answers/tool_parser.h"

namespace kt {

// Reads one call written as a JSON object: {"name": NAME, "arguments": {...}} with "parameters" for "arguments" and
// members in any order. The arguments go out as they come, with the model's own digits and spacing, once the name is
// known. An object without a name is content.
class CallObject {
 public:
  // `before`: markup already read, which is content too if this is no call.
  explicit CallObject(std::string_view before) : raw_(before) {}

  // Reads on and returns the bytes read: all, or up to the end of the object, or to where it stops being one.
  size_t read(std::string_view text, CallWriter& out);

  bool reading() const { return place_ != Place::kEnd; }
  bool is_call() const { return named_; }

 private:
  enum class Place { kOpen, kBeforeKey, kKey, kColon, kBeforeValue, kValue, kEnd };
  enum class Member { kName, kArguments, kOther };

  enum class Taken { kYes, kLast, kNo };  // kNo: the object ends before the character

  Taken take(char c, CallWriter& out);
  Taken take_value(char c, CallWriter& out);
  void begin_value(char first);
  void end_value(CallWriter& out);
  void end(CallWriter& out);
  void arguments(std::string_view text, CallWriter& out);

  Place place_ = Place::kOpen;
  Member member_ = Member::kOther;
  bool escaped_ = false;  // in a key
  std::string text_;      // the key, the name, or arguments that are no object, as JSON text
  JsonNesting nesting_;   // of the value
  bool scalar_ = false;   // the value is no string, object or array
  bool arguments_are_object_ = false;

  bool named_ = false, has_arguments_ = false;
  std::string raw_;        // all that was read, until there is a name
  std::string arguments_;  // not written yet, as there was no name
};

}  // namespace kt
