#include "launcher/answer_view.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "launcher/help_text.h"

namespace kt {
namespace {

bool has_variable(const char* name) {
  const char* value = std::getenv(name);
  return value && *value;
}

// A terminal that does not know escape sequences.
bool is_dumb() {
  const char* terminal = std::getenv("TERM");
  return !terminal || std::string_view(terminal) == "dumb";
}

std::string with_thousands(long number) {
  std::string text = fmt::format("{}", number);
  for (int at = static_cast<int>(text.size()) - 3; at > 0; at -= 3) text.insert(static_cast<size_t>(at), 1, ',');
  return text;
}

std::string words_for(const Waiting& wait) {
  if (!wait.progress) return fmt::format("waiting, {:.0f} s", wait.seconds);
  const auto& [read, total, cached, seconds] = *wait.progress;
  std::string words = "reading ";
  if (read > 0) words += with_thousands(read) + " of ";
  words += with_thousands(total) + " tokens";
  if (read > cached && seconds > 0)
    words += fmt::format(", {:.0f} tokens/s", static_cast<double>(read - cached) / seconds);
  return words + fmt::format(", {:.0f} s", wait.seconds);
}

}  // namespace

AnswerView::AnswerView(bool in_terminal)
    : in_terminal_(in_terminal),
      wrap_(in_terminal ? terminal_width() : 0, in_terminal && !has_variable("NO_COLOR") && !is_dumb(),
            [this](std::string_view text) { out(text); }) {}

Listener AnswerView::listener() {
  Listener listener{.on_piece = [this](std::string_view piece, bool is_reasoning) { show(piece, is_reasoning); }};
  if (in_terminal_ && !is_dumb()) listener.on_wait = [this](const Waiting& wait) { show_waiting(wait); };
  return listener;
}

void AnswerView::show_waiting(const Waiting& wait) {
  constexpr double kSoon = 0.5;  // answers that come before it need no sign
  constexpr std::string_view kSteps[] = {"|", "/", "-", "\\"};
  if (wait.seconds < kSoon || has_text_) return;
  has_sign_ = true;
  std::string sign =
      fmt::format("{} {} ", kSteps[static_cast<size_t>(wait.seconds * 5) % std::size(kSteps)], words_for(wait));
  // What goes on in the next line would stay there.
  if (const int width = terminal_width(); width > 0 && sign.size() >= static_cast<size_t>(width))
    sign.resize(static_cast<size_t>(width) - 1);
  fmt::print("\r{}\x1b[K", sign);
  std::fflush(stdout);
}

void AnswerView::out(std::string_view text) {
  if (has_sign_) fmt::print("\r\x1b[K");
  has_sign_ = false;
  has_text_ = true;
  fmt::print("{}", text);
  std::fflush(stdout);
}

void AnswerView::show(std::string_view piece, bool is_reasoning) {
  if (!in_terminal_) {
    if (!is_reasoning) out(piece);
    return;
  }
  if (markdown_ && is_reasoning != in_reasoning_) {
    markdown_->finish();
    markdown_.reset();
    wrap_.end_line();
    wrap_.end_line();
  }
  if (!markdown_ && !wrap_.shows_attributes() && is_reasoning != in_reasoning_) {
    wrap_.put(is_reasoning ? "Reasoning:" : "Answer:", kPlain);
    wrap_.end_line();
  }
  in_reasoning_ = is_reasoning;
  if (!markdown_) markdown_.emplace(wrap_, is_reasoning ? kDim : kPlain);
  markdown_->write(piece);
}

void AnswerView::finish(bool is_empty_line_wanted) {
  if (markdown_) markdown_->finish();
  if (has_sign_) fmt::print("\r\x1b[K");
  has_sign_ = false;
  if (has_text_ || is_empty_line_wanted) fmt::print("\n");
  std::fflush(stdout);
}

}  // namespace kt
