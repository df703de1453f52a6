#pragma once

#include <unistd.h>

#include <array>
#include <string>

namespace kt {

// The name of this machine, as gethostname(2) says it.
inline std::string host_name() {
  std::array<char, 256> name{};
  gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace kt
