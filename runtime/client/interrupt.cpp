#include "runtime/client/interrupt.h"

namespace kt {
namespace {

volatile sig_atomic_t interrupted = 0;

}  // namespace

Interruptible::Interruptible() {
  interrupted = 0;
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, &before_);  // without SA_RESTART
}
Interruptible::~Interruptible() { sigaction(SIGINT, &before_, nullptr); }
bool Interruptible::happened() const { return interrupted != 0; }

}  // namespace kt
