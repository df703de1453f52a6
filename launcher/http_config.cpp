#include "launcher/http_config.h"

#include <algorithm>
#include <cctype>
#include <sstream>

#include "runtime/serve/http/key_file.h"

namespace kt {
namespace {

// "A.example,b" -> "a.example", "b".
std::vector<std::string> lower_words(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  std::vector<std::string> words;
  std::istringstream stream(text);
  for (std::string word; std::getline(stream, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

}  // namespace

HttpConfig http_config(const RunConfig& run) {
  std::vector<std::string> keys;
  if (!run.api_key_file.empty()) keys = read_key_file(run.api_key_file);
  if (!run.api_key.empty()) keys.push_back(run.api_key);
  return {.host = run.host,
          .port = run.port,
          .host_names = lower_words(run.allowed_hosts),
          .origins = lower_words(run.allowed_origins),
          .api_keys = std::move(keys),
          .admin_api_key = run.admin_api_key,
          .version = KTMPI_VERSION,
          .max_requests_of_key = run.max_requests_per_key,
          .max_answer_s = run.request_timeout_s,
          .comment_interval_s = run.ping_interval_s,
          .priority_for_all = run.enable_priority_scheduling,
          .incremental_output = run.incremental_streaming_output,
          .max_step_age_s = run.step_timeout_s / 2,
          .log_requests = true};
}

}  // namespace kt
