#pragma once

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"
#include "runtime/serve/service.h"

namespace kt {

// POST /generate, SGLang's own dialect: `text` or `input_ids`, one or a list, n samples each; the answer to a list
// (or to n > 1) is a list. Streams send the whole text so far in every event, or with `incremental` what is new.
OrError<Job> parse_generate(std::string_view body, const ServedModel& model, bool incremental = false);

// GET /health_generate: one token through the whole model.
Job make_health_probe(double deadline_s);

}  // namespace kt
