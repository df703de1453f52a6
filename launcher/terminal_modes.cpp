#include "launcher/terminal_modes.h"

#include <signal.h>
#include <unistd.h>

#include <string_view>

namespace kt {
namespace {

constexpr std::string_view kMarkPastes = "\x1b[?2004h", kDoNotMarkPastes = "\x1b[?2004l";
constexpr int kEndings[] = {SIGTERM, SIGHUP, SIGQUIT};

termios before;  // a signal's handler needs it

void send(std::string_view text) { (void)!write(STDOUT_FILENO, text.data(), text.size()); }

void leave() {
  send(kDoNotMarkPastes);
  tcsetattr(STDIN_FILENO, TCSANOW, &before);
}

void leave_and_end(int signal) {
  leave();
  raise(signal);  // its handler was reset
}

}  // namespace

TerminalModes::TerminalModes() {
  tcgetattr(STDIN_FILENO, &before);
  struct sigaction action {};
  action.sa_handler = leave_and_end;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (const int s : kEndings) sigaction(s, &action, nullptr);
}

TerminalModes::~TerminalModes() {
  for (const int s : kEndings) signal(s, SIG_DFL);
  leave();
}

void TerminalModes::enter() {
  if (!knows_editing_) {
    knows_editing_ = tcgetattr(STDIN_FILENO, &editing_) == 0;
    send(kMarkPastes);
  }
  if (knows_editing_) tcsetattr(STDIN_FILENO, TCSADRAIN, &editing_);
}

void TerminalModes::ask_anew() {
  enter();
  send(kMarkPastes);
}

}  // namespace kt
