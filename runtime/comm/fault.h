#pragma once

#include <cstdint>
#include <string>

namespace kt {

// What went wrong on the way between ranks. A value: who waits decides what follows from it.
struct Fault {
  enum Kind : uint8_t {
    none,
    cut,    // another size than expected
    late,   // did not come in time
    lost,   // its rank is gone
    order,  // ranks are at different points, or say what cannot be
  };
  Kind kind = none;
  int rank = -1;  // whose message it was

  explicit operator bool() const { return kind != none; }
  std::string text() const;  // "rank 2 sent a message of another size than expected"
};

// Throws Error(kExitPeerLost) where there is a fault: "<what>: rank 2 ...".
void check(const Fault& fault, const char* what);

}  // namespace kt
