#pragma once

#include <termios.h>

namespace kt {

// What an editor of lines asks of the terminal: to mark what is pasted (ESC [200~ and ESC [201~), and to show no keys
// by itself. All is taken back at the end, also when SIGTERM, SIGHUP or SIGQUIT ends the program. One at a time.
class TerminalModes {
 public:
  TerminalModes();
  ~TerminalModes();
  TerminalModes(const TerminalModes&) = delete;

  void enter();     // the modes that the editor has set when this is called first
  void ask_anew();  // after others may have changed them, as a shell does that stopped the program (Ctrl-Z)

 private:
  termios editing_{};
  bool knows_editing_ = false;
};

}  // namespace kt
