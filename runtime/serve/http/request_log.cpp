#include "runtime/serve/http/request_log.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/log.h"
#include "runtime/serve/json.h"

namespace kt {
namespace {

// What clients write is quoted and cut, so that it cannot forge or flood lines.
std::string as_json_text(std::string_view text) {
  constexpr size_t kMostBytes = 256;
  return Json(text.substr(0, kMostBytes)).dump(-1, ' ', true, Json::error_handler_t::replace);
}

constexpr size_t kTraceIdAt = 3, kTraceIdSize = 32, kParentIdAt = 36, kParentIdSize = 16;
constexpr size_t kTraceparentSize = 55;

std::vector<LogField> fields_of(const Asked& asked) {
  std::vector<LogField> fields = {{"client", asked.address}, {"request_id", asked.request_id}};
  if (asked.traceparent.empty()) return fields;
  fields.push_back({"trace_id", asked.traceparent.substr(kTraceIdAt, kTraceIdSize)});
  fields.push_back({"parent_id", asked.traceparent.substr(kParentIdAt, kParentIdSize)});
  return fields;
}

void log_line_of(LogLevel level, const Asked& asked, std::string message, std::vector<LogField> fields) {
  for (LogField& field : fields_of(asked)) fields.push_back(std::move(field));
  log_line(level, message + text_of(asked), fields);
}

}  // namespace

std::string text_of(const Asked& asked) {
  return fmt::format(", from {}{}{}{}{}", asked.address, asked.named_by_client ? ", X-Request-Id " : "",
                     asked.named_by_client ? asked.request_id : "", asked.traceparent.empty() ? "" : ", traceparent ",
                     asked.traceparent);
}

void log_end(const Asked& asked, const EndedRequest& r) {
  std::string message =
      fmt::format("request {} {} {} {}{}: {} prompt, {} cached, {} completion tokens, {:.3f} s", as_json_text(r.id),
                  r.route, r.status, r.finish_reason, r.error.empty() ? "" : fmt::format(" ({})", r.error),
                  r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.seconds);
  std::vector<LogField> fields = {{"id", r.id},
                                  {"method", asked.method},
                                  {"path", r.route},
                                  {"status", r.status},
                                  {"finish_reason", r.finish_reason},
                                  {"error", r.error},
                                  {"prompt_tokens", r.prompt_tokens},
                                  {"cached_tokens", r.cached_tokens},
                                  {"completion_tokens", r.completion_tokens},
                                  {"duration_s", r.seconds}};
  if (r.first_token_s > 0) {
    message += fmt::format(", {:.3f} s in the queue, {:.3f} s to the first token", r.queue_s, r.first_token_s);
    fields.push_back({"queue_s", r.queue_s});
    fields.push_back({"ttft_s", r.first_token_s});
  }
  log_line_of(LogLevel::info, asked, std::move(message), std::move(fields));
}

void log_answer(const Asked& asked, const HttpResponse& response) {
  const LogLevel level = response.error ? LogLevel::info : LogLevel::debug;
  if (!logs(level)) return;
  const std::string what =
      asked.method.empty() ? "a request" : asked.method.substr(0, 16) + " " + as_json_text(asked.path);
  std::vector<LogField> fields = {{"method", asked.method}, {"path", asked.path}, {"status", response.status}};
  if (!response.error)
    return log_line_of(level, asked, fmt::format("answered {} {}", what, response.status), std::move(fields));
  const ApiError& error = *response.error;
  const std::string word = word_of(error);
  std::string message = fmt::format("refused {} {} {}{}{}", what, response.status, word, error.param.empty() ? "" : " ",
                                    error.param.empty() ? "" : as_json_text(error.param));
  fields.push_back({"error", word});
  fields.push_back({"param", error.param});
  if (logs(LogLevel::debug)) {
    message += ": " + as_json_text(error.message);
    fields.push_back({"error_message", error.message});
  }
  log_line_of(level, asked, std::move(message), std::move(fields));
}

std::string word_of(const ApiError& error) {
  return error.code.empty() ? std::string(error_type(error.status)) : error.code;
}

bool is_traceparent(std::string_view text) {
  if (text.size() < kTraceparentSize) return false;
  for (size_t i = 0; i < kTraceparentSize; ++i) {
    const bool dash = i == 2 || i == kParentIdAt - 1 || i == kTraceparentSize - 3;
    const bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
    if (dash ? text[i] != '-' : !hex) return false;
  }
  const auto is_zero = [&](size_t at, size_t size) {
    return text.substr(at, size).find_first_not_of('0') == text.npos;
  };
  if (is_zero(kTraceIdAt, kTraceIdSize) || is_zero(kParentIdAt, kParentIdSize)) return false;
  const std::string_view version = text.substr(0, 2);
  return version == "00" ? text.size() == kTraceparentSize
                         : version != "ff" && (text.size() == kTraceparentSize || text[kTraceparentSize] == '-');
}

}  // namespace kt
