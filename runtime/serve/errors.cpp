#include "runtime/serve/errors.h"

#include "runtime/serve/json.h"

namespace kt {

std::string_view error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 408:
    case 504: return "timeout_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string to_json(const ApiError& error) {
  const auto or_null = [](const std::string& s) { return s.empty() ? Json(nullptr) : Json(s); };
  Json inner = {{"message", error.message},
                {"type", error_type(error.status)},
                {"param", or_null(error.param)},
                {"code", or_null(error.code)}};
  Json body = {{"error", inner}, {"object", "error"}};
  for (const char* key : {"message", "type", "code"}) body[key] = inner[key];
  return dump(body);
}

ApiError to_api_error(const Rejection& rejection, std::string param) {
  ApiError error{rejection.http_status, rejection.message, "", ""};
  if (error.status == 400) {  // the engine refuses only what can never fit
    error.param = std::move(param);
    error.code = "context_length_exceeded";
  }
  return error;
}

}  // namespace kt
