// [{"name": NAME, "parameters": {...}}, ...] as the whole answer: what the grammar of tool_choice "required" or of a
// named function admits, whatever the model's own format.

#include <array>
#include <optional>

#include "runtime/text/answers/tool_call_object.h"
#include "runtime/text/answers/tool_parser.h"

namespace kt {
namespace {

class JsonArrayParser : public ToolParser {
 private:
  enum class State { kStart, kItems, kObject, kText };

  bool step() override {
    switch (state_) {
      case State::kStart: return start();
      case State::kItems: return items();
      case State::kObject: return object();
      case State::kText: return text();
    }
    return false;
  }

  // An array of objects, or one object; anything else is text.
  bool start() {
    const std::string_view rest = unread_.text();
    const size_t at = leading_white_space(rest.substr(0, kMaxGap));
    if (at == rest.size() && !final_) return false;
    if (rest.substr(at).starts_with('{')) {
      in_array_ = false;
      return unread_.drop(at), begin_object("");
    }
    if (!rest.substr(at).starts_with('[')) return go(State::kText);
    const Ahead brace = look_ahead(rest.substr(at + 1), kBrace);
    if (brace.text_ends() && !final_) return false;
    if (!brace.yes()) return go(State::kText);
    opening_ = rest.substr(0, at + 1);
    return unread_.drop(at + 1), go(State::kItems);
  }

  bool items() {
    unread_.drop(leading_white_space(unread_.text()));
    if (unread_.empty()) return false;
    const char c = unread_.text().front();
    if (c == '{') return begin_object(std::exchange(opening_, {}));
    if (c == ',' || c == ']') unread_.drop(1);
    return c == ',' || go(State::kText);
  }

  bool begin_object(std::string_view before) {
    object_.emplace(before);
    return go(State::kObject);
  }

  bool object() {
    unread_.drop(object_->read(unread_.text(), out_));
    if (object_->reading()) {
      if (final_ && !out_.in_call()) cut_off_ = true;
      return false;
    }
    return go(in_array_ && object_->is_call() ? State::kItems : State::kText);
  }

  bool text() {
    const size_t length = unread_.text().size();
    return literal(length), false;
  }

  bool go(State state) { return state_ = state, true; }

  State state_ = State::kStart;
  bool in_array_ = true;
  std::string opening_;  // the bracket, until the first object shows that it opens calls
  std::optional<CallObject> object_;
};

}  // namespace

std::unique_ptr<ToolParser> make_json_array_parser(const nlohmann::ordered_json&) {
  return std::make_unique<JsonArrayParser>();
}

}  // namespace kt
