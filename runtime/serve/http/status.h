#pragma once

#include <string>
#include <string_view>

#include "runtime/engine/engine.h"

namespace kt {

struct ServedModel;

// What a page that watches the server shows, as one small JSON object; /metrics says the same and more. `state` is that
// of /health.
std::string status_json(const EngineStats& stats, std::string_view state, const ServedModel& model);

}  // namespace kt
