#include "launcher/answer_view.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

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

int terminal_width() {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;  // 0: unknown, nothing is wrapped
}

}  // namespace

AnswerView::AnswerView(bool in_terminal)
    : in_terminal_(in_terminal),
      wrap_(in_terminal ? terminal_width() : 0, in_terminal && !has_variable("NO_COLOR") && !is_dumb(),
            [this](std::string_view text) { out(text); }) {}

Listener AnswerView::listener() {
  Listener listener{.on_piece = [this](std::string_view piece, bool is_reasoning) { show(piece, is_reasoning); }};
  if (in_terminal_ && !is_dumb()) listener.on_wait = [this](double seconds) { show_waiting(seconds); };
  return listener;
}

void AnswerView::show_waiting(double seconds) {
  constexpr double kSoon = 0.5;  // answers that come before it need no sign
  constexpr std::string_view kSteps[] = {"|", "/", "-", "\\"};
  if (seconds < kSoon || has_text_) return;
  has_sign_ = true;
  fmt::print("\r{} waiting, {:.0f} s \x1b[K", kSteps[static_cast<size_t>(seconds * 5) % std::size(kSteps)], seconds);
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
