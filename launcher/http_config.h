#pragma once

#include "runtime/config/run_config.h"
#include "runtime/serve/http/http.h"

namespace kt {

// What the options say of the HTTP endpoint. Reads the file of keys; throws Error(kExitUsage) where it cannot be used.
HttpConfig http_config(const RunConfig& run);

}  // namespace kt
