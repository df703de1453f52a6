#pragma once

#include <gtest/gtest.h>

#include <string>

#include "runtime/base/error.h"

namespace kt {

// What the Error says that an action throws, which has to have that exit code; "accepted" when it throws none.
template <class Action>
std::string refusal_of(const Action& action, ExitCode expected = kExitModel) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), expected) << e.what();
    return e.what();
  }
  return "accepted";
}

}  // namespace kt
