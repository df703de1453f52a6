#pragma once

#include <cstdio>
#include <cstdlib>

// Ends the program, which is how a fuzz target says that it has found something.
inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken: %s\n", what);
  std::abort();
}
