// Hermes, which Qwen2.5 and Qwen3 follow:
//   <tool_call>{"name": NAME, "arguments": {...}}</tool_call>..., with white space around the object

#include <array>
#include <optional>

#include "runtime/text/answers/tool_call_object.h"
#include "runtime/text/answers/tool_parser.h"

namespace kt {
namespace {

constexpr std::array<std::string_view, 2> kTags = {"<tool_call>", "</tool_call>"};

class HermesParser : public ToolParser {
 private:
  bool step() override { return object_ ? object() : text(); }

  bool text() {
    const std::string_view rest = unread_.text();
    const MarkerPlace mark = find_marker(rest, kTags, final_);
    if (mark.at > 0) {
      behind_call_ = behind_call_ && trimmed(rest.substr(0, mark.at)).empty();
      return literal(mark.at), true;
    }
    if (!mark.found()) return false;
    const size_t length = kTags[static_cast<size_t>(mark.which)].size();
    if (mark.which == 1) {
      if (!in_block_ && !behind_call_) return literal(length), true;
      in_block_ = false;
      out_.inside_markup();
      return unread_.drop(length), true;
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
    in_block_ = behind_call_ = object_->is_call();
    object_.reset();
    return true;
  }

  std::optional<CallObject> object_;
  bool in_block_ = false;     // a call came, and its closing tag did not
  bool behind_call_ = false;  // nothing but tags and white space came since
};

}  // namespace

std::unique_ptr<ToolParser> make_hermes_parser(const nlohmann::ordered_json&) {
  return std::make_unique<HermesParser>();
}

}  // namespace kt
