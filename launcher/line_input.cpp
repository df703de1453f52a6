#include "launcher/line_input.h"

#include <histedit.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>
#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr int kHistoryLength = 1000;

class PlainLines : public LineInput {
 public:
  std::optional<std::string> read() override {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }
};

volatile sig_atomic_t interrupted = 0;

// While one lives, SIGINT (Ctrl-C) interrupts what waits for input.
class Interruptible {
 public:
  Interruptible() {
    interrupted = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    sigaction(SIGINT, &action, &before_);  // without SA_RESTART
  }
  ~Interruptible() { sigaction(SIGINT, &before_, nullptr); }
  Interruptible(const Interruptible&) = delete;

 private:
  struct sigaction before_ {};
};

class TerminalLines : public LineInput {
 public:
  explicit TerminalLines(std::string prompt) : prompt_(std::move(prompt)) {
    // Characters of several bytes are edited as one where the locale is of UTF-8; the C locale's is not.
    if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_ = el_init("ktmpi", stdin, stdout, stderr);
    history_ = history_init();
    if (!editor_ || !history_) fail(kExitUsage, "this terminal cannot edit lines; try: ktmpi chat < questions");
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLength);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &TerminalLines::prompt_of);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
    el_wset(editor_, EL_GETCFN, &TerminalLines::read_character);
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  }
  ~TerminalLines() override {
    if (history_) history_end(history_);
    if (editor_) el_end(editor_);
  }
  TerminalLines(const TerminalLines&) = delete;

  std::optional<std::string> read() override {
    int length = 0;
    const Interruptible interruptible;
    el_set(editor_, EL_PREP_TERM, 1);  // before the prompt, or keys that follow it at once are not edited
    const char* text = el_gets(editor_, &length);
    if (!text || length <= 0) {
      std::fputc('\n', stdout);
      return std::nullopt;
    }
    std::string line(text, static_cast<size_t>(length));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(history_, &event, H_ENTER, line.c_str());
    return line;
  }

 private:
  static char* prompt_of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return static_cast<TerminalLines*>(self)->prompt_.data();
  }

  // The editor's own way to read goes on after a signal.
  static int read_character(EditLine*, wchar_t* character) {
    std::mbstate_t state{};
    while (true) {
      char byte = 0;
      const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
      if (count < 0 && errno == EINTR && !interrupted) continue;
      if (count <= 0) return 0;
      constexpr size_t kIncomplete = static_cast<size_t>(-2), kWrong = static_cast<size_t>(-1);
      const size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == kWrong) state = {};
      if (used != kIncomplete && used != kWrong) return 1;
    }
  }

  std::string prompt_;
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
};

}  // namespace

std::unique_ptr<LineInput> plain_lines() { return std::make_unique<PlainLines>(); }
std::unique_ptr<LineInput> terminal_lines(std::string prompt) {
  return std::make_unique<TerminalLines>(std::move(prompt));
}

}  // namespace kt
