#pragma once

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

inline constexpr size_t kMaxPrompts = 128;  // of one request

// POST /v1/completions. k prompts with n samples each give k n choices, index = prompt n + sample.
OrError<Job> parse_completions(std::string_view body, const ServedModel& model);

}  // namespace kt
