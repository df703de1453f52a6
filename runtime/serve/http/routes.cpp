#include "runtime/serve/http/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/chat/params.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/http/openapi.h"
#include "runtime/serve/http/origin.h"
#include "runtime/serve/http/page.h"
#include "runtime/serve/http/status.h"
#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/openai/responses.h"
#include "runtime/serve/openai/responses_endpoints.h"
#include "runtime/serve/sglang/generate.h"
#include "runtime/serve/sglang/parse_endpoints.h"
#include "runtime/serve/sglang/recording_endpoints.h"
#include "runtime/serve/sglang/text_endpoints.h"

namespace kt {
namespace {

HttpResponse json_response(Json body, int status = 200) {
  return {.status = status, .body = dump(body), .content_type = "application/json", .allow = ""};
}

HttpResponse text_response(std::string body, int status = 200, std::string type = "text/plain; charset=utf-8") {
  return {.status = status, .body = std::move(body), .content_type = std::move(type), .allow = ""};
}

// The key of a request: "Authorization: Bearer <key>" (the scheme in any case) or "x-api-key: <key>".
std::string_view key_of(const HttpRequest& request) {
  constexpr std::string_view kScheme = "bearer ";
  const std::string_view value = request.authorization;
  if (value.size() < kScheme.size()) return request.api_key_header;
  for (size_t i = 0; i < kScheme.size(); ++i) {
    const char c = value[i] >= 'A' && value[i] <= 'Z' ? static_cast<char>(value[i] - 'A' + 'a') : value[i];
    if (c != kScheme[i]) return request.api_key_header;
  }
  return value.substr(kScheme.size());
}

bool is_admin_key(std::string_view key, const HttpConfig& config) {
  return !config.admin_api_key.empty() && constant_time_equal(key, config.admin_api_key);
}

// A key that nobody checks is no more than a claim.
bool is_known(std::string_view key, const HttpConfig& config) {
  bool known = is_admin_key(key, config);  // all keys are looked at: the time does not tell which one is near
  for (const std::string& user : config.api_keys) known |= constant_time_equal(key, user);
  return known;
}

bool may(const HttpRequest& request, Route::Access access, const HttpConfig& config) {
  if (access == Route::Access::open) return true;
  const std::string_view key = key_of(request);
  if (access == Route::Access::admin && !config.admin_api_key.empty()) return is_admin_key(key, config);
  return config.api_keys.empty() || is_known(key, config);
}

// To get ahead of others takes a right to it; to stand back does not.
std::optional<ApiError> check_priority(const Job& job, const HttpRequest& request, const HttpConfig& config) {
  const bool hurries =
      std::any_of(job.requests.begin(), job.requests.end(), [](const GenerateRequest& r) { return r.priority > 0; });
  if (!hurries || config.priority_for_all || is_admin_key(key_of(request), config)) return std::nullopt;
  return ApiError{403,
                  "priority: above 0 it takes the admin key, or a server that was started with "
                  "--enable-priority-scheduling; leave it out",
                  "priority", "permission_denied"};
}

// The header X-Request-Timeout: seconds, as the member "timeout" of a body.
OrError<double> header_timeout(const std::string& text) {
  if (text.empty()) return 0.0;
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error == std::errc() && end == text.data() + text.size() && seconds > 0 && std::isfinite(seconds)) return seconds;
  return ApiError{400, fmt::format("X-Request-Timeout: expected a number of seconds above 0, found \"{}\"", text),
                  "X-Request-Timeout", ""};
}

// Of several deadlines the first one counts; 0 is none.
double earlier(double a, double b) { return a > 0 && b > 0 ? std::min(a, b) : std::max(a, b); }

Outcome to_outcome(OrError<Job> parsed, const HttpRequest& request, const Service& service,
                   Dialect dialect = Dialect::openai) {
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) return error_response(*error, dialect);
  const OrError<double> asked = header_timeout(request.timeout_header);
  if (const ApiError* error = std::get_if<ApiError>(&asked)) return error_response(*error, dialect);
  Job& job = std::get<Job>(parsed);
  if (const auto refusal = check_priority(job, request, service.config)) return error_response(*refusal, dialect);
  job.client = request.client;
  for (GenerateRequest& r : job.requests) {
    r.client = request.client;
    r.deadline_s = earlier(r.deadline_s, earlier(std::get<double>(asked), service.config.max_answer_s));
  }
  return std::move(job);
}

Outcome to_outcome(OrError<std::string> parsed, Dialect dialect = Dialect::openai) {
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) return error_response(*error, dialect);
  return HttpResponse{.body = std::move(std::get<std::string>(parsed))};
}

Outcome to_text_outcome(OrError<std::string> answer) {
  if (const ApiError* error = std::get_if<ApiError>(&answer)) return error_response(*error);
  return text_response(std::move(std::get<std::string>(answer)));
}

// "" when all is well.
std::string sickness(const Service& service, const EngineStats& stats) {
  if (stats.draining) return "draining";
  if (stats.step_age_s > service.config.max_step_age_s)
    return fmt::format("no step finished for {:.0f} s", stats.step_age_s);
  const std::string silent = service.config.silent_rank ? service.config.silent_rank() : "";
  return silent.empty() ? "" : silent + " says nothing";
}

Outcome health(const HttpRequest&, const Service& service) {
  const std::string trouble = service.engine ? sickness(service, service.engine->stats()) : "loading";
  return json_response({{"status", trouble.empty() ? "ok" : trouble}}, trouble.empty() ? 200 : 503);
}

Outcome status(const HttpRequest&, const Service& service) {
  if (!service.engine) return json_response({{"status", "loading"}});
  const EngineStats stats = service.engine->stats();
  const std::string trouble = sickness(service, stats);
  return HttpResponse{.body = status_json(stats, trouble.empty() ? "ok" : trouble, service.model)};
}

Outcome expert_map(const HttpRequest&, const Service& service) {
  if (!service.model.expert_map) return json_response({{"experts", 0}, {"layers", Json::array()}});
  return HttpResponse{.body = service.model.expert_map()};
}

// A forward pass on demand; while other work makes steps, that is proof enough.
Outcome health_generate(const HttpRequest& request, const Service& service) {
  const EngineStats stats = service.engine->stats();
  if (stats.running > 0 || !sickness(service, stats).empty()) return health(request, service);
  return make_health_probe(service.config.health_timeout_s);
}

// What one request can really have: of the model, and of the memory.
int max_context(const Service& service) {
  const int most = service.engine->stats().max_context;
  return most > 0 ? std::min(most, service.model.max_context) : service.model.max_context;
}

// What load balancers ask for, in SGLang's form.
Outcome load(const HttpRequest&, const Service& service) {
  const EngineStats stats = service.engine->stats();
  return json_response(Json::array({{{"dp_rank", 0},
                                     {"num_reqs", stats.running + stats.waiting},
                                     {"num_waiting_reqs", stats.waiting},
                                     {"num_tokens", stats.kv_tokens_used}}}));
}

Json model_card(const Service& service) {
  const ServedModel& model = service.model;
  return {{"id", model.name},   {"object", "model"}, {"created", service.started},           {"owned_by", "ktmpi"},
          {"root", model.name}, {"parent", nullptr}, {"max_model_len", max_context(service)}};
}

// `models` is a catalog in Codex's own words; empty, it makes Codex take its defaults, and without it complain.
Outcome list_models(const HttpRequest&, const Service& service) {
  return json_response({{"object", "list"}, {"data", Json::array({model_card(service)})}, {"models", Json::array()}});
}

Outcome show_model(const HttpRequest& request, const Service& service) {
  const std::string id = request.path.substr(std::string_view("/v1/models/").size());
  if (id == service.model.name) return json_response(model_card(service));
  return error_response({404,
                         fmt::format("the model \"{}\" does not exist; this server has \"{}\"", id, service.model.name),
                         "model", "model_not_found"});
}

Outcome model_info(const HttpRequest&, const Service& service) {
  const ServedModel& model = service.model;
  return json_response({{"model_path", model.model_path},
                        {"tokenizer_path", model.tokenizer_path},
                        {"is_generation", true},
                        {"preferred_sampling_params", nullptr},
                        {"weight_version", "default"},
                        {"has_image_understanding", false},
                        {"has_audio_understanding", false},
                        {"model_type", model.model_type},
                        {"architectures", Json::array({model.architecture})},
                        {"served_model_name", model.name},
                        {"max_model_len", model.max_context},
                        {"vocab_size", model.vocab},
                        {"eos_token_ids", model.eos}});
}

Outcome server_info(const HttpRequest&, const Service& service) {
  const EngineStats stats = service.engine->stats();
  Json info = Json::parse(service.model.server_info_json);
  info["version"] = service.config.version;
  info["max_total_num_tokens"] = stats.kv_tokens_total;
  info["max_req_input_len"] = std::max(0, stats.max_context - 1);
  info["internal_states"] = Json::array({{{"last_gen_throughput", stats.last_generation_throughput},
                                          {"memory_usage", {{"token_capacity", stats.kv_tokens_total}}},
                                          {"effective_max_running_requests_per_dp", stats.max_running_requests},
                                          {"num_running_reqs", stats.running},
                                          {"num_waiting_reqs", stats.waiting},
                                          {"num_used_tokens", stats.kv_tokens_used}}});
  return json_response(std::move(info));
}

Outcome metrics_text(const HttpRequest&, const Service& service) {
  return text_response(to_prometheus(service.metrics, service.engine->stats(), service.config.version, service.model),
                       200, "text/plain; version=0.0.4; charset=utf-8");
}

Outcome version(const HttpRequest&, const Service& service) {
  return json_response({{"version", service.config.version}});
}

Outcome page(const HttpRequest&, const Service&) { return make_page(); }

Outcome page_file(const HttpRequest& request, const Service&) { return make_page_file(request.path); }

Outcome openapi(const HttpRequest&, const Service&) { return HttpResponse{.body = std::string(openapi_json())}; }

Outcome flush_cache(const HttpRequest&, const Service& service) {
  if (service.engine->flush_cache()) return text_response("Cache flushed.\n");
  const EngineStats stats = service.engine->stats();
  return error_response(
      {400, fmt::format("cache not flushed: {} requests run and {} wait", stats.running, stats.waiting), "", ""});
}

// The program sees that the engine drains, and leaves when the open requests are answered or drain-timeout-s is over.
Outcome drain(const HttpRequest&, const Service& service) {
  service.engine->drain();
  return json_response({{"status", "draining"}});
}

Outcome abort_request(const HttpRequest& request, const Service&) {
  auto command = or_error([&] {
    const Json body = parse_body(request.body);
    const Fields fields(body);
    AbortCommand parsed;
    fields.read("rid", parsed.rid, kMaxIdBytes);
    fields.read("abort_all", parsed.all);
    if (parsed.rid.empty() && !parsed.all) throw BadRequest("rid", "give a rid or \"abort_all\": true");
    return parsed;
  });
  if (const ApiError* error = std::get_if<ApiError>(&command)) return error_response(*error);
  return std::get<AbortCommand>(std::move(command));
}

Outcome chat(const HttpRequest& r, const Service& s) { return to_outcome(parse_chat(r.body, s.model), r, s); }
Outcome completions(const HttpRequest& r, const Service& s) {
  return to_outcome(parse_completions(r.body, s.model), r, s);
}
Outcome generate(const HttpRequest& r, const Service& s) {
  return to_outcome(parse_generate(r.body, s.model, s.config.incremental_output), r, s);
}
Outcome messages(const HttpRequest& r, const Service& s) {
  return to_outcome(parse_messages(r.body, s.model), r, s, Dialect::anthropic);
}
Outcome message_tokens(const HttpRequest& r, const Service& s) {
  return to_outcome(count_tokens(r.body, s.model), Dialect::anthropic);
}
// Where keys are asked for, stored responses are those of the key.
std::string owner_of(const HttpRequest& r, const Service& s) { return s.config.api_keys.empty() ? "" : r.client; }
ResponseContext response_context(const HttpRequest& r, const Service& s) {
  return {s.responses, owner_of(r, s), max_context(s)};
}
std::string response_id(const HttpRequest& r) {
  const std::string below = r.path.substr(std::string_view("/v1/responses/").size());
  return below.substr(0, below.find('/'));
}
Outcome responses(const HttpRequest& r, const Service& s) {
  return to_outcome(parse_response_request(r.body, s.model, response_context(r, s)), r, s);
}
Outcome response_tokens(const HttpRequest& r, const Service& s) {
  return to_outcome(count_response_tokens(r.body, s.model, response_context(r, s)));
}
Outcome stored_response(const HttpRequest& r, const Service& s) {
  if (r.method == "DELETE") return forget_response(response_id(r), s.responses, owner_of(r, s));
  return show_response(r, response_id(r), s.responses, owner_of(r, s));
}
Outcome response_items(const HttpRequest& r, const Service& s) {
  return list_input_items(r, response_id(r), s.responses, owner_of(r, s));
}
Outcome stop_response(const HttpRequest& r, const Service& s) {
  return cancel_response(response_id(r), s.responses, owner_of(r, s));
}
Outcome tokenize_text(const HttpRequest& r, const Service& s) { return to_outcome(tokenize(r.body, s.model)); }
Outcome detokenize_ids(const HttpRequest& r, const Service& s) { return to_outcome(detokenize(r.body, s.model)); }
Outcome parse_call(const HttpRequest& r, const Service& s) { return to_outcome(parse_function_call(r.body, s.model)); }
Outcome split_reasoning(const HttpRequest& r, const Service& s) {
  return to_outcome(separate_reasoning(r.body, s.model));
}
Outcome render_template(const HttpRequest& r, const Service& s) { return to_outcome(apply_template(r.body, s.model)); }

Outcome start_record(const HttpRequest&, const Service& s) {
  return to_text_outcome(start_recording(s.model.recorder));
}
Outcome stop_record(const HttpRequest&, const Service& s) { return to_text_outcome(stop_recording(s.model.recorder)); }
Outcome dump_record(const HttpRequest&, const Service& s) { return to_text_outcome(dump_recording(s.model.recorder)); }

using enum Route::Access;
using enum Route::Where;

constexpr Route kRoutes[] = {
    {"/v1/chat/completions", "POST", user, worker, true, false, chat},
    {"/v1/completions", "POST", user, worker, true, false, completions},
    {"/v1/responses", "POST", user, worker, true, false, responses},
    {"/v1/responses/input_tokens", "POST", user, worker, true, false, response_tokens},
    {"/v1/responses/*/input_items", "GET, HEAD", user, worker, false, false, response_items},
    {"/v1/responses/*/cancel", "POST", user, worker, false, false, stop_response},
    {"/v1/responses/*", "GET, HEAD, DELETE", user, worker, false, false, stored_response},
    {"/v1/messages", "POST", user, worker, true, false, messages, Dialect::anthropic},
    {"/v1/messages/count_tokens", "POST", user, worker, true, false, message_tokens, Dialect::anthropic},
    {"/generate", "POST, PUT", user, worker, true, false, generate},
    {"/tokenize", "POST", user, worker, true, false, tokenize_text},
    {"/v1/tokenize", "POST", user, worker, true, false, tokenize_text},
    {"/detokenize", "POST", user, worker, true, false, detokenize_ids},
    {"/v1/detokenize", "POST", user, worker, true, false, detokenize_ids},
    {"/apply-template", "POST", user, worker, true, false, render_template},
    {"/parse_function_call", "POST", user, worker, true, false, parse_call},
    {"/separate_reasoning", "POST", user, worker, true, false, split_reasoning},
    {"/v1/models", "GET, HEAD", user, io, false, false, list_models},
    {"/v1/models/*", "GET, HEAD", user, io, false, false, show_model},
    {"/model_info", "GET, HEAD", user, io, false, false, model_info},
    {"/get_model_info", "GET, HEAD", user, io, false, false, model_info},
    {"/server_info", "GET, HEAD", user, io, false, false, server_info},
    {"/get_server_info", "GET, HEAD", user, io, false, false, server_info},
    {"/get_load", "GET, HEAD", user, io, false, false, load},
    {"/version", "GET, HEAD", user, io, false, false, version},
    {"/", "GET, HEAD", open, io, false, true, page},  // holds no secret; what it asks for needs the key
    {"/page/*", "GET, HEAD", open, io, false, true, page_file},
    {"/openapi.json", "GET, HEAD", open, io, false, true, openapi},
    {"/abort_request", "POST", admin, worker, true, false, abort_request},
    {"/admin/drain", "POST", admin, io, false, false, drain},
    {"/flush_cache", "GET, POST", admin, io, false, false, flush_cache},
    {"/start_expert_distribution_record", "GET, POST", admin, worker, false, false, start_record},
    {"/stop_expert_distribution_record", "GET, POST", admin, worker, false, false, stop_record},
    {"/dump_expert_distribution_record", "GET, POST", admin, worker, false, false, dump_record},
    {"/health", "GET, HEAD", open, io, false, true, health},
    {"/ready", "GET, HEAD", open, io, false, true, health},
    {"/ping", "GET, HEAD", open, io, false, true, health},
    {"/status", "GET, HEAD", open, io, false, true, status},
    {"/status/experts", "GET, HEAD", open, io, false, true, expert_map},
    {"/health_generate", "GET", open, io, false, false, health_generate},
    {"/metrics", "GET, HEAD", open, io, false, false, metrics_text},
};

bool matches(const Route& route, std::string_view path) {
  const size_t star = route.path.find('*');
  if (star == route.path.npos) return path == route.path;
  const std::string_view before = route.path.substr(0, star), after = route.path.substr(star + 1);
  if (path.size() <= before.size() + after.size() || !path.starts_with(before) || !path.ends_with(after)) return false;
  const std::string_view name = path.substr(star, path.size() - before.size() - after.size());
  return after.empty() || name.find('/') == name.npos;
}

bool is_route(std::string_view path) {
  return std::any_of(std::begin(kRoutes), std::end(kRoutes), [&](const Route& r) { return matches(r, path); });
}

// Where other servers have what this one has elsewhere, and what none of its models can do.
constexpr std::pair<std::string_view, std::string_view> kElsewhere[] = {
    {"/completion", "/v1/completions"},
    {"/api/generate", "/v1/completions"},
    {"/api/chat", "/v1/chat/completions"},
    {"/api/tags", "/v1/models"},
    {"/api/version", "/version"},
    {"/load", "/get_load"},
    {"/v1/loads", "/get_load"},
    {"/props", "/get_server_info"},
    {"/reset_prefix_cache", "/flush_cache"},
    {"/invocations", "/v1/chat/completions"},
};

// A mistyped path most often is one of ours with "/v1" too little or too much, or with a "/" at its end.
std::string hint_for(std::string_view path) {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const size_t version = path.rfind("/v1/");
  const std::string_view inner = version == path.npos ? path : path.substr(version + 3);
  for (const std::string& ours : {"/v1" + std::string(inner), std::string(inner)})
    if (is_route(ours)) return fmt::format("; it is {} here", ours);
  for (const auto& [theirs, ours] : kElsewhere)
    if (path == theirs || inner == theirs) return fmt::format("; this server has {} instead", ours);
  return "";
}

bool allows(std::string_view methods, std::string_view method) {
  for (size_t at = 0; at < methods.size();) {
    const size_t end = std::min(methods.find(", ", at), methods.size());
    if (methods.substr(at, end - at) == method) return true;
    at = end + 2;
  }
  return false;
}

bool is_json(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  while (type.ends_with(' ')) type.pop_back();
  std::transform(type.begin(), type.end(), type.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return type == "application/json";
}

}  // namespace

std::span<const Route> all_routes() { return kRoutes; }

std::string client_of(const HttpRequest& request, const HttpConfig& config, const std::string& address) {
  const std::string_view key = key_of(request);
  return is_known(key, config) ? fmt::format("key {}", key) : "address " + address;
}

bool constant_time_equal(std::string_view a, std::string_view b) {
  if (b.empty()) return a.empty();
  unsigned char difference = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i % b.size()]);
  return difference == 0;
}

std::variant<const Route*, HttpResponse> find_route(const HttpRequest& request, const Service& service) {
  const auto route =
      std::find_if(std::begin(kRoutes), std::end(kRoutes), [&](const Route& r) { return matches(r, request.path); });
  const bool known = route != std::end(kRoutes);
  const auto refuse = [&](int status, std::string message, std::string code) {
    return error_response({status, std::move(message), "", std::move(code)}, known ? route->dialect : Dialect::openai);
  };
  const OwnNames names{service.config.host, service.config.host_names, !service.config.api_keys.empty()};
  if (!is_own_host(request.host, names))
    return refuse(403,
                  fmt::format("requests for the host {} are refused; use an address or localhost, or start the server "
                              "with --allowed-hosts",
                              request.host),
                  "host_refused");
  if (!request.origin.empty() && !is_same_origin(request.origin, request.host, names) &&
      !is_allowed_origin(request.origin, service.config.origins))
    return refuse(
        403,
        fmt::format("requests from pages of {} are refused; start the server with --allowed-origins for them, "
                    "or with --allowed-hosts if it is a name of this server",
                    request.origin),
        "origin_refused");

  // What has no Origin, as images and links have none. Where anybody may ask there is nothing to be had by it.
  if (request.cross_site && request.origin.empty() && !(known && route->access == Route::Access::open))
    return refuse(403, "requests that a page of another site has a browser send are refused", "origin_refused");

  const bool options = request.method == "OPTIONS";
  if (!options && !may(request, known ? route->access : Route::Access::user, service.config))
    return refuse(401, "a valid key is required: \"Authorization: Bearer <key>\" or \"x-api-key: <key>\"",
                  "invalid_api_key");
  if (!known) return refuse(404, fmt::format("there is no {}{}", request.path, hint_for(request.path)), "not_found");
  if (options)
    return HttpResponse{.status = 204, .content_type = "", .allow = fmt::format("{}, OPTIONS", route->methods)};
  if (!allows(route->methods, request.method)) {
    HttpResponse response = refuse(
        405, fmt::format("{} takes {}, not {}", request.path, route->methods, request.method), "method_not_allowed");
    response.allow = route->methods;
    return response;
  }
  if (!service.engine && !route->while_loading) return refuse(503, "loading: the model is not ready yet", "loading");
  if (route->json_body && !is_json(request.content_type))
    return refuse(400, "the request needs the header \"Content-Type: application/json\"", "unsupported_content_type");
  return &*route;
}

}  // namespace kt
