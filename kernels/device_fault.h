#pragma once

#include <stdexcept>

namespace kt {

// A device refused something, or broke: in its library's own words.
struct DeviceFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};
// It is fine, but another rank's, or the way there, is not.
struct LostPeer : DeviceFault {
  using DeviceFault::DeviceFault;
};

}  // namespace kt
