#include "runtime/serve/json.h"

#include <fmt/format.h>

#include "runtime/serve/errors.h"
#include "runtime/text/json/json_exact.h"

namespace kt {

Json parse_body(std::string_view body) {
  Json value;
  try {
    value = parse_exact(body);
  } catch (const std::exception& e) {
    throw BadRequest("", fmt::format("the request body is not valid JSON: {}", e.what()), "invalid_json");
  }
  if (!value.is_object()) throw BadRequest("", "the request body must be a JSON object", "invalid_json");
  return value;
}

}  // namespace kt
