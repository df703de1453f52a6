#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "runtime/engine/request.h"

namespace kt {

// Keeps the members' order: the prompt of a chat depends on it, and clients see ours.
using Json = nlohmann::ordered_json;

// Compact text; never throws: bytes that are not UTF-8 become U+FFFD.
inline std::string dump(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

// One server-sent event.
inline std::string sse_text(std::string_view data) { return std::string("data: ").append(data).append("\n\n"); }
inline std::string sse(const Json& value) { return sse_text(dump(value)); }
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";

// JSON has no infinity; OpenAI writes -9999.0 for what cannot happen. All other values keep every bit: a float
// widened to double is printed with the digits that read back as the same double.
inline double json_logprob(float logprob) { return logprob > -9999.0f ? static_cast<double>(logprob) : -9999.0; }

// A request body. Throws BadRequest for anything but one JSON object: nesting beyond 64, broken UTF-8, NaN, ...
Json parse_body(std::string_view body);

}  // namespace kt
