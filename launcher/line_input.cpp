#include "launcher/line_input.h"

#include <fmt/format.h>
#include <histedit.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>
#include <utility>

#include "launcher/history_file.h"
#include "launcher/terminal_modes.h"
#include "runtime/base/error.h"
#include "runtime/client/interrupt.h"

namespace kt {
namespace {

constexpr std::wstring_view kPasteEnd = L"\x1b[201~";

class PlainLines : public LineInput {
 public:
  std::optional<Line> read(std::string_view) override {
    Line line;
    if (!std::getline(std::cin, line.text)) return std::nullopt;
    if (line.text.ends_with('\r')) line.text.pop_back();
    return line;
  }
};

volatile sig_atomic_t changed = 0;  // the terminal's size, or its modes while this program was stopped

// Line breaks as \n, none at the end, no other control characters than tabs.
std::wstring tidied(std::wstring_view pasted) {
  std::wstring text;
  for (size_t i = 0; i < pasted.size(); ++i) {
    const wchar_t c = pasted[i];
    const bool is_break = c == L'\n' || c == L'\r';
    if (is_break && !(c == L'\n' && i > 0 && pasted[i - 1] == L'\r')) text += L'\n';
    if (c == L'\t' || (c >= L' ' && c != 0x7F)) text += c;
  }
  while (text.ends_with(L'\n')) text.pop_back();
  return text;
}

class TerminalLines : public LineInput {
 public:
  explicit TerminalLines(TerminalOptions options) : options_(std::move(options)) {
    // Characters of several bytes are edited as one where the locale is of UTF-8; the C locale's is not.
    if (!std::setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    signal(SIGINT, SIG_IGN);
    struct sigaction action {};
    action.sa_handler = [](int) { changed = 1; };
    for (const int s : {SIGWINCH, SIGCONT}) sigaction(s, &action, nullptr);  // without SA_RESTART
    editor_ = el_init("ktmpi", stdin, stdout, stderr);
    history_ = history_init();
    if (!editor_ || !history_) fail(kExitUsage, "this terminal cannot edit lines; try: ktmpi chat < questions");
    HistEvent event;
    history(history_, &event, H_SETSIZE, static_cast<int>(kHistoryLength));
    history(history_, &event, H_SETUNIQUE, 1);
    if (!options_.history.empty())
      for (const std::string& line : read_history(options_.history)) history(history_, &event, H_ENTER, line.c_str());
    el_set(editor_, EL_CLIENTDATA, this);
    el_set(editor_, EL_PROMPT, &TerminalLines::prompt_of);
    el_set(editor_, EL_EDITOR, "emacs");
    el_set(editor_, EL_HIST, history, history_);
    el_wset(editor_, EL_GETCFN, &TerminalLines::read_character);
    el_set(editor_, EL_ADDFN, "ktmpi-paste", "take what is pasted", &TerminalLines::paste);
    el_set(editor_, EL_ADDFN, "ktmpi-complete", "complete a command", &TerminalLines::complete);
    el_set(editor_, EL_ADDFN, "ktmpi-newline", "begin another line", &TerminalLines::begin_line);
    el_set(editor_, EL_BIND, "\\e[200~", "ktmpi-paste", nullptr);
    el_set(editor_, EL_BIND, "^I", "ktmpi-complete", nullptr);
    el_set(editor_, EL_BIND, "\\e^M", "ktmpi-newline", nullptr);
    el_set(editor_, EL_BIND, "\\e^J", "ktmpi-newline", nullptr);
    el_set(editor_, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  }
  ~TerminalLines() override {
    if (history_) history_end(history_);
    if (editor_) el_end(editor_);
  }
  TerminalLines(const TerminalLines&) = delete;

  std::optional<Line> read(std::string_view prompt) override {
    prompt_ = prompt;
    Line line;
    int length = 0;
    const char* text = nullptr;
    {
      const Interruptible interruptible;
      interruptible_ = &interruptible;
      el_set(editor_, EL_PREP_TERM, 1);
      modes_.enter();
      text = el_gets(editor_, &length);
      line.is_interrupted = interruptible.happened();
      interruptible_ = nullptr;
    }
    modes_.enter();  // until the next line nothing that is typed is shown
    if (line.is_interrupted) {
      tell_terminal("^C\n");
      line.text = std::exchange(interrupted_text_, {});
      return line;
    }
    if (!text || length <= 0) {
      tell_terminal("\n");
      return std::nullopt;
    }
    line.text.assign(text, static_cast<size_t>(length));
    if (line.text.ends_with('\n')) line.text.pop_back();
    remember(line.text);
    return line;
  }

 private:
  static TerminalLines& self(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<TerminalLines*>(self);
  }
  static char* prompt_of(EditLine* editor) { return self(editor).prompt_.data(); }

  static void tell_terminal(const char* text) {
    std::fputs(text, stdout);
    std::fflush(stdout);
  }

  void remember(const std::string& text) {
    if (text.empty() || text.front() == ' ') return;  // as shells do
    HistEvent event;
    history(history_, &event, H_ENTER, text.c_str());
    if (options_.history.empty() || add_to_history(options_.history, text)) return;
    fmt::print(stderr, "ktmpi chat: {}: cannot be written: no history is kept\n", options_.history.string());
    options_.history.clear();
  }

  // The editor's own way to read goes on after a signal.
  static int read_character(EditLine* editor, wchar_t* character) {
    TerminalLines& lines = self(editor);
    std::mbstate_t state{};
    while (true) {
      if (std::exchange(changed, 0)) {
        lines.modes_.ask_anew();
        el_resize(editor);
        el_set(editor, EL_REFRESH);
      }
      char byte = 0;
      const ssize_t count = lines.interruptible_->happened() ? 0 : ::read(STDIN_FILENO, &byte, 1);
      if (lines.interruptible_->happened()) {
        const LineInfo* line = el_line(editor);
        lines.interrupted_text_.assign(line->buffer, line->lastchar);
        return 0;
      }
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return 0;
      constexpr size_t kIncomplete = static_cast<size_t>(-2), kWrong = static_cast<size_t>(-1);
      const size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == kWrong) state = {};
      if (used != kIncomplete && used != kWrong) return 1;
    }
  }

  static unsigned char paste(EditLine* editor, int) {
    std::wstring pasted;
    for (wchar_t c = 0; !pasted.ends_with(kPasteEnd) && read_character(editor, &c) == 1;) pasted += c;
    if (pasted.ends_with(kPasteEnd)) pasted.resize(pasted.size() - kPasteEnd.size());
    const std::wstring text = tidied(pasted);
    if (!text.empty()) el_winsertstr(editor, text.c_str());
    return CC_REFRESH;
  }

  static unsigned char begin_line(EditLine* editor, int) {
    el_winsertstr(editor, L"\n");
    return CC_REFRESH;
  }

  static unsigned char complete(EditLine* editor, int) {
    const TerminalLines& lines = self(editor);
    const LineInfo* line = el_line(editor);
    const std::string before(line->buffer, line->cursor);
    if (!lines.options_.complete) return CC_ERROR;
    const auto [from, words] = lines.options_.complete(before);
    if (words.empty()) return CC_ERROR;
    std::string common = words.front();
    for (const std::string& word : words)
      common.resize(static_cast<size_t>(std::mismatch(common.begin(), common.end(), word.begin(), word.end()).first -
                                        common.begin()));
    std::string more = common.substr(std::min(common.size(), before.size() - from));
    if (words.size() == 1 && !common.ends_with('/')) more += ' ';
    if (!more.empty()) {
      el_insertstr(editor, more.c_str());
      return CC_REFRESH;
    }
    tell_terminal(fmt::format("\n{}\n", fmt::join(words, "  ")).c_str());
    return CC_REDISPLAY;
  }

  TerminalOptions options_;
  TerminalModes modes_;  // ends after the editor, which sets them too
  std::string prompt_, interrupted_text_;
  const Interruptible* interruptible_ = nullptr;  // while a line is read
  EditLine* editor_ = nullptr;
  History* history_ = nullptr;
};

}  // namespace

std::unique_ptr<LineInput> plain_lines() { return std::make_unique<PlainLines>(); }
std::unique_ptr<LineInput> terminal_lines(TerminalOptions options) {
  return std::make_unique<TerminalLines>(std::move(options));
}

}  // namespace kt
