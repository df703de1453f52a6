#pragma once

#include <string_view>

namespace kt {

// docs/openapi.yaml as JSON, made a source file by the build.
std::string_view openapi_json();

}  // namespace kt
