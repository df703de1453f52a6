#include "runtime/serve/chat/params.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "runtime/serve/errors.h"
#include "runtime/serve/schemas/answer_schema.h"
#include "runtime/text/answers/stop_automaton.h"

namespace kt {
namespace {

void read_stop_token_ids(const Fields& fields, int vocab, std::vector<int32_t>& ids) {
  const Json* value = fields.find("stop_token_ids");
  if (!value) return;
  const std::string path = fields.path("stop_token_ids");
  if (!value->is_array())
    throw BadRequest(path, fmt::format("{}: expected a list of ids, found {}", path, kind_of(*value)));
  if (value->size() > kMaxStopTokens)
    throw BadRequest(path, fmt::format("{}: at most {} ids, found {}", path, kMaxStopTokens, value->size()));
  for (const Json& id : *value) ids.push_back(static_cast<int32_t>(to_integer(id, path, 0, vocab - 1)));
}

void read_logit_bias(const Fields& fields, int vocab, std::vector<std::pair<int32_t, float>>& bias) {
  const Json* value = fields.find("logit_bias");
  if (!value) return;
  const std::string path = fields.path("logit_bias");
  if (!value->is_object())
    throw BadRequest(path,
                     fmt::format("{}: expected an object from token id to number, found {}", path, kind_of(*value)));
  if (value->size() > kMaxLogitBias)
    throw BadRequest(path, fmt::format("{}: at most {} tokens, found {}", path, kMaxLogitBias, value->size()));
  for (const auto& [key, number] : value->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= vocab)
      throw BadRequest(path, fmt::format("{}: \"{}\" is not a token id from 0 to {}", path, key, vocab - 1));
    bias.emplace_back(id, static_cast<float>(to_number(number, path + "." + key)));
  }
}

// One text or a list of them.
std::vector<std::string> read_stops(const Json& value, const std::string& path) {
  if (!value.is_array()) return {to_string(value, path)};
  if (value.size() > kMaxStops)
    throw BadRequest(path, fmt::format("{}: at most {} of them, found {}", path, kMaxStops, value.size()));
  std::vector<std::string> stops;
  for (const Json& item : value) stops.push_back(to_string(item, path));
  return stops;
}

void read_stop_regex(const Fields& fields, std::shared_ptr<const StopAutomaton>& stop_regex) {
  const Json* value = fields.find("stop_regex");
  if (!value) return;
  const std::string path = fields.path("stop_regex");
  const std::vector<std::string> patterns = read_stops(*value, path);
  check_expression(fmt::format("{}", fmt::join(patterns, "|")), path);  // as long and as large as one
  StopAutomaton stops;
  for (const std::string& pattern : patterns) {
    try {
      stops.add_pattern(pattern);
    } catch (const std::invalid_argument& e) {
      throw BadRequest(path, fmt::format("{}: \"{}\": {}", path, pattern, e.what()));
    }
  }
  stop_regex = std::make_shared<const StopAutomaton>(std::move(stops));
}

}  // namespace

SamplingParams model_sampling(const ServedModel& model) {
  const SamplingDefaults& defaults = model.defaults;
  SamplingParams sampling;
  sampling.temperature = defaults.temperature.value_or(sampling.temperature);
  sampling.top_p = defaults.top_p.value_or(sampling.top_p);
  sampling.top_k = defaults.top_k.value_or(sampling.top_k);
  sampling.min_p = defaults.min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = defaults.repetition_penalty.value_or(sampling.repetition_penalty);
  return sampling;
}

std::vector<std::string> read_stop(const Json& value, const std::string& path) {
  std::vector<std::string> stop = read_stops(value, path);
  for (const std::string& text : stop) {
    if (text.empty()) throw BadRequest(path, path + ": a stop string must not be empty");
    if (text.size() > kMaxStopBytes)
      throw BadRequest(path,
                       fmt::format("{}: a stop string may have {} bytes, found {}", path, kMaxStopBytes, text.size()));
  }
  return stop;
}

void read_sampling(const Fields& fields, int vocab, SamplingParams& sampling) {
  fields.read("temperature", sampling.temperature, {.min = 0});
  fields.read("top_p", sampling.top_p, {.min = 0, .max = 1, .above = true});
  fields.read("min_p", sampling.min_p, {.min = 0, .max = 1});
  fields.read("frequency_penalty", sampling.frequency_penalty, {.min = -2, .max = 2});
  fields.read("presence_penalty", sampling.presence_penalty, {.min = -2, .max = 2});
  fields.read("repetition_penalty", sampling.repetition_penalty, {.min = 0, .max = 2, .above = true});
  fields.read("top_k", sampling.top_k, -1);
  if (sampling.top_k == 0) sampling.top_k = -1;  // both mean "all" among clients
  fields.read("ignore_eos", sampling.ignore_eos);
  fields.read("skip_special_tokens", sampling.skip_special_tokens);
  fields.read("no_stop_trim", sampling.no_stop_trim);
  bool with_stop = false;
  if (fields.read("include_stop_str_in_output", with_stop) && with_stop) sampling.no_stop_trim = true;
  if (const Json* stop = fields.find("stop")) sampling.stop = read_stop(*stop, fields.path("stop"));
  read_stop_regex(fields, sampling.stop_regex);
  read_stop_token_ids(fields, vocab, sampling.stop_token_ids);
  read_logit_bias(fields, vocab, sampling.logit_bias);
}

void read_scheduling(const Fields& fields, GenerateRequest& request) {
  fields.read("priority", request.priority);
  float timeout_s = 0;
  if (fields.read("timeout", timeout_s, {.min = 0, .above = true})) request.deadline_s = timeout_s;
  std::string salt, key;
  fields.read("cache_salt", salt, kMaxSaltBytes);
  fields.read("extra_key", key, kMaxSaltBytes);
  if (!salt.empty() || !key.empty()) request.cache_salt = fmt::format("{}:{}{}", salt.size(), salt, key);
}

void read_seed(const Fields& fields, std::string_view name, std::optional<uint64_t>& seed) {
  const Json* value = fields.find(name);
  if (!value) return;
  if (value->is_number_unsigned()) {
    seed = value->get<uint64_t>();
  } else {
    seed = static_cast<uint64_t>(to_integer(*value, fields.path(name), INT64_MIN, INT64_MAX));
  }
}

void read_max_tokens(const Fields& fields, std::string_view name, int least, int& max_tokens) {
  const Json* value = fields.find(name);
  if (value && *value == -1) {
    max_tokens = -1;
  } else {
    fields.read(name, max_tokens, least);
  }
}

int read_stream_interval(const Fields& fields) {
  int interval = 1;
  fields.read("stream_interval", interval, 1);
  return interval;
}

bool truncate_prompt(const Fields& fields, int max_context, const SamplingParams& sampling, std::vector<int32_t>& ids) {
  std::string side = "left";
  if (fields.read("truncation_side", side) && side != "left" && side != "right")
    throw BadRequest(fields.path("truncation_side"),
                     fmt::format("{}: \"{}\" is none of left, right", fields.path("truncation_side"), side));
  int most = 0;
  if (const Json* value = fields.find("truncate_prompt_tokens"); !value) {
    return false;
  } else if (*value == -1) {
    most = std::max(1, max_context - std::max(1, sampling.max_new_tokens));
  } else {
    fields.read("truncate_prompt_tokens", most, 1);
  }
  if (ids.size() <= static_cast<size_t>(most)) return false;
  const auto surplus = static_cast<ptrdiff_t>(ids.size()) - most;
  if (side == "left") {
    ids.erase(ids.begin(), ids.begin() + surplus);
  } else {
    ids.resize(static_cast<size_t>(most));
  }
  return true;
}

void check_token_limits(const Fields& fields, std::string_view min_name, const SamplingParams& sampling) {
  if (sampling.max_new_tokens >= 0 && sampling.min_new_tokens > sampling.max_new_tokens)
    throw BadRequest(fields.path(min_name),
                     fmt::format("{}: {} is more than the {} tokens asked for at most", fields.path(min_name),
                                 sampling.min_new_tokens, sampling.max_new_tokens));
}

void order_grammar(const std::optional<AnswerFormat>& format, const ServedModel& model, size_t first, Job& job) {
  if (!format) return;
  if (!model.compile_grammar)
    throw BadRequest(format->param,
                     fmt::format("{}: this model names no token that ends an answer; leave it out", format->param),
                     "unsupported");
  job.grammars.push_back({to_structural_tag(format->format), format->param, first, job.requests.size() - first});
}

void append_choices(const GenerateRequest& request, int n, std::vector<GenerateRequest>& out) {
  const size_t choices = out.size() + static_cast<size_t>(n);
  if (choices > kMaxRequestChoices)
    throw BadRequest(
        "n", fmt::format("n: {} answers in one request are more than the limit of {}", choices, kMaxRequestChoices));
  size_t tokens = request.input_ids.size() * static_cast<size_t>(n);
  for (const GenerateRequest& earlier : out) tokens += earlier.input_ids.size();
  if (tokens > kMaxRequestTokens)
    throw BadRequest(
        "n", fmt::format("n: {} prompt tokens for all answers of one request are more than the limit of {}", tokens,
                         kMaxRequestTokens));
  for (int i = 0; i < n; ++i) {
    out.push_back(request);
    if (i > 0) out.back().rid += fmt::format("-{}", i);
    if (request.sampling.seed) out.back().sampling.seed = *request.sampling.seed + static_cast<uint64_t>(i);
  }
}

std::vector<int32_t> read_token_ids(const Json& value, const std::string& path, int vocab) {
  if (!value.is_array())
    throw BadRequest(path, fmt::format("{}: expected a list of token ids, found {}", path, kind_of(value)));
  if (value.empty()) throw BadRequest(path, fmt::format("{}: the list of token ids is empty", path));
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& id : value) ids.push_back(static_cast<int32_t>(to_integer(id, path, 0, vocab - 1)));
  return ids;
}

}  // namespace kt
