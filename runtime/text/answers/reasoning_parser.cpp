#include "runtime/text/answers/reasoning_parser.h"

#include <algorithm>
#include <array>
#include <utility>

namespace kt {

std::span<const ReasoningFormat> reasoning_formats() {
  using enum ReasoningFormat::Starts;
  static constexpr ReasoningFormat kFormats[] = {
      {"qwen3", kUnlessOff, "enable_thinking"}, {"qwen3-thinking", kAlways, ""},    {"kimi_k2", kUnlessOff, "thinking"},
      {"kimi", kUnlessOff, "thinking"},         {"deepseek-v3", kIfOn, "thinking"}, {"deepseek-r1", kAlways, ""},
  };
  return kFormats;
}

const ReasoningFormat* find_reasoning_format(std::string_view name) {
  const std::span<const ReasoningFormat> formats = reasoning_formats();
  const auto format = std::find_if(formats.begin(), formats.end(), [&](const auto& f) { return f.name == name; });
  return format == formats.end() ? nullptr : &*format;
}

bool starts_in_reasoning(const ReasoningFormat& format, std::string_view prompt,
                         const nlohmann::ordered_json& template_arguments) {
  const std::string_view end = prompt.substr(0, prompt.find_last_not_of(kWhiteSpace) + 1);
  if (end.ends_with(ReasoningParser::kOpen)) return true;
  if (end.ends_with(ReasoningParser::kClose)) return false;
  if (format.starts == ReasoningFormat::Starts::kAlways) return true;
  const bool unless_said = format.starts == ReasoningFormat::Starts::kUnlessOff;
  if (!template_arguments.is_object()) return unless_said;
  const auto said = template_arguments.find(format.switch_name);
  return said != template_arguments.end() && said->is_boolean() ? said->get<bool>() : unless_said;
}

ReasoningParser::Split ReasoningParser::push(std::string_view text) {
  Split out;
  unread_.append(text);
  while (step(out)) {
  }
  return out;
}

ReasoningParser::Split ReasoningParser::flush() {
  final_ = true;
  return push("");
}

bool ReasoningParser::step(Split& out) {
  switch (state_) {
    case State::kStart: return start(out);
    case State::kReasoning: return reasoning(out);
    case State::kBehind:
      unread_.drop(leading_white_space(unread_.text()));
      if (unread_.empty()) return false;
      state_ = State::kRest;
      return true;
    case State::kRest:
      out.rest += unread_.text();
      unread_.drop(unread_.text().size());
      return false;
  }
  return false;
}

bool ReasoningParser::start(Split& out) {
  const size_t spaces = leading_white_space(unread_.text());
  white_space_ += unread_.text().substr(0, spaces);
  unread_.drop(spaces);
  const std::string_view text = unread_.text();
  const bool may_open = text.size() < kOpen.size() && kOpen.starts_with(text);
  if (may_open && !final_) return false;
  if (text.starts_with(kOpen)) {
    unread_.drop(kOpen.size());
    white_space_.clear();
    state_ = State::kReasoning;
  } else if (start_ == Start::kOpen) {
    state_ = State::kReasoning;
  } else {
    out.rest += std::exchange(white_space_, {});
    state_ = State::kRest;
  }
  return true;
}

bool ReasoningParser::reasoning(Split& out) {
  const std::string_view text = unread_.text();
  const MarkerPlace mark = find_marker(text, markers_, final_);
  if (mark.at > 0) {
    add_reasoning(text.substr(0, mark.at), out);
    unread_.drop(mark.at);
    return true;
  }
  if (!mark.found()) return false;
  if (mark.which == 0) {
    unread_.drop(kClose.size());
    state_ = State::kBehind;
    return true;
  }
  const std::string_view first = markers_[static_cast<size_t>(mark.which)];
  bool may_start = false;
  for (const ToolFormat::Start& call : calls_) {
    if (call.first != first) continue;
    const std::array second = {call.second};
    const Ahead next = look_ahead(text.substr(first.size()), second);
    if (call.second.empty() || next.yes()) {
      ended_by_call_ = true;
      state_ = State::kRest;
      return true;
    }
    may_start = may_start || next.text_ends();
  }
  if (may_start && !final_) return false;
  add_reasoning(first, out);
  unread_.drop(first.size());
  return true;
}

// A block of nothing but white space is no reasoning.
void ReasoningParser::add_reasoning(std::string_view text, Split& out) {
  if (!has_reasoning_) {
    const size_t spaces = leading_white_space(text);
    white_space_ += text.substr(0, spaces);
    text.remove_prefix(spaces);
    if (text.empty()) return;
    has_reasoning_ = true;
    out.reasoning += std::exchange(white_space_, {});
  }
  out.reasoning += text;
}

}  // namespace kt
