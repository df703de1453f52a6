#pragma once

#include "runtime/comm/transport.h"

namespace kt::testing {

// What every transport promises. All ranks call it together, each with its own transport; failures are gtest's.
void check_transport(Transport& transport);

}  // namespace kt::testing
