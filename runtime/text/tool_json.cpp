// Calls that are JSON as a whole.
//   hermes, qwen25: <tool_call>{"name": NAME, "arguments": {...}}</tool_call>..., with white space around the objects
//   json_array:     [{"name": NAME, "parameters": {...}}, ...] as the whole answer, which is what the grammar of
//                   tool_choice "required" or a named function admits

#include <array>
#include <optional>

#include "runtime/text/tool_call_object.h"
#include "runtime/text/tool_parser.h"

namespace kt {
namespace {

constexpr std::array<std::string_view, 2> kTags = {"<tool_call>", "</tool_call>"};
constexpr std::array<std::string_view, 1> kBrace = {"{"};

class HermesParser : public ToolParser {
 private:
  bool step() override { return object_ ? object() : text(); }

  bool text() {
    const std::string_view rest = unread_.text();
    const MarkerPlace mark = find_marker(rest, kTags, final_);
    if (mark.at > 0) return literal(mark.at), true;
    if (!mark.found()) return false;
    const size_t length = kTags[static_cast<size_t>(mark.which)].size();
    if (mark.which == 1) {
      if (in_block_)
        unread_.drop(length);
      else
        literal(length);
      in_block_ = false;
      return true;
    }
    const Ahead brace = look_ahead(rest.substr(length), kBrace);
    if (brace.text_ends() && !final_) return false;
    if (!brace.yes()) return literal(length), true;
    object_.emplace(rest.substr(0, length + brace.at));
    unread_.drop(length + brace.at);
    return true;
  }

  bool object() {
    unread_.drop(object_->read(unread_.text(), out_));
    if (object_->reading()) {
      if (final_ && !out_.in_call()) cut_off_ = true;
      return false;
    }
    in_block_ = object_->is_call();
    object_.reset();
    return true;
  }

  std::optional<CallObject> object_;
  bool in_block_ = false;  // a call came, and its closing tag did not
};

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

std::unique_ptr<ToolParser> make_hermes_parser(const nlohmann::ordered_json&) {
  return std::make_unique<HermesParser>();
}

std::unique_ptr<ToolParser> make_json_array_parser(const nlohmann::ordered_json&) {
  return std::make_unique<JsonArrayParser>();
}

}  // namespace kt
