#include "runtime/serve/dialect.h"

#include <fmt/format.h>

namespace kt {
namespace {

std::string_view anthropic_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

std::string named_event(std::string_view type, Json members) {
  Json data = {{"type", type}};
  data.update(members);
  return fmt::format("event: {}\n{}", type, sse(data));
}

int error_status(const ApiError& error, Dialect dialect) {
  return dialect == Dialect::anthropic && error.status == 503 ? 529 : error.status;
}

std::string error_body(const ApiError& error, Dialect dialect) {
  if (dialect == Dialect::openai) return to_json(error);
  return dump({{"type", "error"}, {"error", {{"type", anthropic_type(error.status)}, {"message", error.message}}}});
}

std::string error_events(const ApiError& error, Dialect dialect) {
  if (dialect == Dialect::openai) return sse_text(error_body(error, dialect)).append(kSseDone);
  return "event: error\n" + sse_text(error_body(error, dialect));
}

std::string_view ping_events(Dialect dialect) {
  return dialect == Dialect::openai ? ": ping\n\n" : "event: ping\ndata: {\"type\": \"ping\"}\n\n";
}

}  // namespace kt
