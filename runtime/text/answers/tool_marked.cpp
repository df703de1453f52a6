#include "runtime/text/answers/tool_marked.h"

#include <array>

namespace kt {
namespace {

// The longest head of a call. Names are far shorter.
constexpr size_t kMaxCallHead = 1024;
constexpr std::string_view kFence = "```", kJsonFence = "```json";

class MarkedParser : public ToolParser {
 public:
  explicit MarkedParser(const MarkedDialect& dialect)
      : d_(dialect), markers_{d_.section_begin, d_.section_end, d_.call_begin, d_.separator, d_.call_end} {}

 private:
  enum class State { kText, kHead, kFencedName, kFence, kArguments, kObject, kFenceEnd };
  enum Marker { kSectionBegin, kSectionEnd, kCallBegin, kSeparator, kCallEnd };

  bool step() override {
    switch (state_) {
      case State::kText: return text();
      case State::kHead: return head();
      case State::kFencedName: return fenced_name();
      case State::kFence: return skip_fence(kJsonFence, State::kArguments);
      case State::kArguments: return arguments();
      case State::kObject: return object();
      case State::kFenceEnd: return skip_fence(kFence, State::kText);
    }
    return false;
  }

  // Outside calls, in a section or not.

  bool text() {
    const std::string_view rest = unread_.text();
    const MarkerPlace mark = find_marker(rest, markers_, final_);
    if (mark.at > 0) {
      behind_call_ = behind_call_ && trimmed(rest.substr(0, mark.at)).empty();
      return literal(mark.at), true;
    }
    if (!mark.found()) return false;
    if (mark.which == kCallBegin) return go(State::kHead);
    const size_t length = marker(mark).size();
    bool is_markup = in_section_ || behind_call_;
    if (mark.which == kSectionBegin) {
      const std::array inside = {d_.call_begin, d_.section_end};
      const Ahead next = look_ahead(rest.substr(length), inside);
      if (next.text_ends()) {
        if (final_) drop_cut_off_head();
        return false;
      }
      is_markup = in_section_ = in_section_ || next.yes();
    }
    if (mark.which == kSectionEnd) in_section_ = false;
    if (!is_markup) return literal(length), true;
    if (mark.which != kSectionBegin) out_.inside_markup();
    return unread_.drop(length), true;
  }

  // The unread text is call_begin HEAD ...
  bool head() {
    const std::string_view rest = unread_.text().substr(d_.call_begin.size());
    const size_t end = rest.substr(0, kMaxCallHead).find('<');
    const std::string_view next = end == rest.npos ? std::string_view() : rest.substr(end);
    const MarkerPlace mark = find_marker(next, markers_, false);
    const bool text_ends = end == rest.npos ? rest.size() < kMaxCallHead : mark.at == 0 && !mark.found();
    if (text_ends) {
      if (final_) drop_cut_off_head();
      return false;
    }
    const bool has_arguments = mark.at == 0 && mark.which == kSeparator;
    const bool only_name = mark.at == 0 && mark.which == kCallEnd && !d_.name_in_fence;
    const std::string name = d_.name_of(rest.substr(0, end));
    if (!(has_arguments || only_name) || name.empty()) {
      literal(d_.call_begin.size());
      return go(State::kText);
    }
    in_section_ = true;
    unread_.drop(d_.call_begin.size() + end + (has_arguments ? d_.separator.size() : 0));
    if (d_.name_in_fence) return go(State::kFencedName);
    out_.begin_call(name);
    return go(State::kArguments);
  }

  bool fenced_name() {
    const std::string_view rest = unread_.text();
    const size_t end = rest.substr(0, kMaxCallHead).find_first_of("\n<");
    if (end == rest.npos && rest.size() < kMaxCallHead) {
      if (final_) drop_cut_off_head();
      return false;
    }
    const std::string_view name = trimmed(rest.substr(0, end));
    if (end == rest.npos || rest[end] == '<' || name.empty()) return go(State::kText);  // no call, so it is content
    out_.begin_call(name);
    unread_.drop(end + 1);
    return go(State::kFence);
  }

  // Reads white space and, if it is there, the fence.
  bool skip_fence(std::string_view fence, State next) {
    unread_.drop(leading_white_space(unread_.text()));
    const std::string_view rest = unread_.text();
    if (rest.size() < fence.size() && fence.starts_with(rest) && !final_) return false;
    if (rest.starts_with(fence)) unread_.drop(fence.size());
    return go(next);
  }

  bool arguments() {
    unread_.drop(leading_white_space(unread_.text()));
    if (unread_.empty()) return false;
    nesting_ = {};
    if (unread_.text().starts_with('{')) return go(State::kObject);
    const MarkerPlace mark = find_marker(unread_.text(), markers_, final_);
    if (mark.at == 0 && !mark.found()) return false;
    if (mark.at == 0) return out_.arguments("{}"), end_arguments();
    return go(State::kObject);
  }

  // A JSON object, or what the model wrote in its place, up to its end or the next marker outside strings.
  bool object() {
    const JsonNesting::Step step = nesting_.follow(unread_.text());
    out_.arguments(unread_.text().substr(0, step.length));
    unread_.drop(step.length);
    if (step.end == JsonNesting::Step::End::kClosed) return end_arguments();
    if (step.end == JsonNesting::Step::End::kText) return false;
    const MarkerPlace mark = find_marker(unread_.text(), markers_, final_);
    if (mark.at == 0) return mark.found() && end_arguments();
    out_.arguments(unread_.text().substr(0, 1));
    return unread_.drop(1), true;
  }

  bool end_arguments() {
    out_.end_call();
    behind_call_ = true;
    return go(d_.name_in_fence ? State::kFenceEnd : State::kText);
  }

  std::string_view marker(const MarkerPlace& mark) const { return markers_[static_cast<size_t>(mark.which)]; }
  bool go(State state) { return state_ = state, true; }

  const MarkedDialect& d_;
  const std::array<std::string_view, 5> markers_;  // in Marker's order

  State state_ = State::kText;
  bool in_section_ = false;
  bool behind_call_ = false;  // nothing but markers and white space came since
  JsonNesting nesting_;
};

}  // namespace

std::unique_ptr<ToolParser> make_marked_parser(const MarkedDialect& dialect) {
  return std::make_unique<MarkedParser>(dialect);
}

}  // namespace kt
