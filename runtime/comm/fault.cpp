#include "runtime/comm/fault.h"

#include "runtime/base/error.h"

namespace kt {

std::string Fault::text() const {
  switch (kind) {
    case none: return "no fault";
    case cut: return fmt::format("rank {} sent a message of another size than expected", rank);
    case late: return fmt::format("rank {} did not answer in time", rank);
    case lost: return fmt::format("rank {} is gone", rank);
    case order: break;
  }
  return fmt::format("rank {} is at another point of the step", rank);
}

void check(const Fault& fault, const char* what) {
  if (fault) fail(kExitPeerLost, "{}: {}", what, fault.text());
}

}  // namespace kt
