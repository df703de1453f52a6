#pragma once

#include <stdexcept>

namespace kt {

// A device refused something, or broke: in its library's own words.
struct DeviceFault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace kt
