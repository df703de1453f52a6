#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/base/sampling_defaults.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/request.h"
#include "runtime/recording/recorder.h"
#include "runtime/serve/dialect.h"
#include "runtime/serve/errors.h"
#include "runtime/text/answers/reasoning_parser.h"
#include "runtime/text/answers/tool_parser.h"
#include "runtime/text/templates/chat_template.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// What GrammarCompiler::compile does: slow, throws GrammarError, may be called by several threads.
using CompileGrammar =
    std::function<std::shared_ptr<const Grammar>(const std::string& structural_tag, std::stop_token stop)>;

// What GrammarCompiler::find does: quick; null for what has to be compiled.
using FindGrammar = std::function<std::shared_ptr<const Grammar>(const std::string& structural_tag)>;

// A process of the job, for those who look after it.
struct ServedRank {
  int node = 0;
  std::string role;              // "trunk+expert"
  size_t memory_bytes = 0;       // for weights, caches and buffers; taken at the start
  int64_t misplaced_pages = -1;  // sampled pages of its experts on another NUMA node; -1: not known
};

// The model as clients see it. What is pointed to outlives the server.
struct ServedModel {
  std::string name;  // in /v1/models
  std::string model_path, tokenizer_path;
  std::string architecture, model_type;  // of config.json
  int max_context = 0;                   // tokens of one request, prompt + answer
  int vocab = 0;                         // ids of clients are below it
  std::vector<int32_t> eos;
  const Tokenizer* tokenizer = nullptr;
  const ChatTemplate* chat_template = nullptr;  // null: the model has none, chats are refused
  const ReasoningFormat* reasoning = nullptr;   // null: reasoning stays in the content
  const ToolFormat* tools = nullptr;            // null: tool calls stay in the content
  CompileGrammar compile_grammar;               // empty: no form of answers can be demanded
  FindGrammar find_grammar;                     // empty: each is compiled, or found by compile_grammar
  SamplingDefaults defaults;
  Recorder* recorder = nullptr;  // null: expert use cannot be recorded
  std::vector<ServedRank> ranks;
  int restarts = 0;                            // of the job so far
  std::string server_info_json = "{}";         // an object: all options of the run
  std::function<std::string()> more_metrics;   // further Prometheus text, of what lies behind the engine; may be empty
  std::function<std::string()> expert_status;  // a JSON object: the experts of /status; may be empty
  std::function<std::string()> expert_map;     // a JSON object: /status/experts; may be empty
};

struct HttpConfig {
  std::string host = "127.0.0.1";
  int port = 30000;                     // 0: any free one
  std::vector<std::string> host_names;  // further names of ours in Host and Origin, in lower case
  std::vector<std::string> origins;     // whose pages may ask too, in lower case
  std::vector<std::string> api_keys;    // any of them opens what users may do; none: everybody may
  std::string admin_api_key;
  std::string version;  // of the program, as clients are told

  size_t max_header_bytes = 16 << 10;
  size_t max_header_fields = 100;
  size_t max_body_bytes = 4 << 20;
  size_t max_connections = 4096;
  size_t max_connections_of_one = 2048;  // address: nobody keeps all others out
  int max_requests_of_key = 64;          // for text, that are open; 0: any number
  size_t max_unread_bytes = 1 << 20;     // of a stream whose client does not read; then it is dropped
  double header_timeout_s = 10;          // from a request's first byte to the end of its header
  double request_timeout_s = 30;         // to the end of its body
  double idle_timeout_s = 60;            // between requests
  double write_timeout_s = 30;           // for one write, and 1 s more for each 64 KiB
  double max_answer_s = 0;               // a request's deadline at the latest; 0: none but the client's own
  double ping_interval_s = 10;           // a silent stream of Anthropic's sends a ping this often
  double comment_interval_s = 0;         // any other ": ping"; 0: never, as some clients parse every line
  bool priority_for_all = false;         // else only who may administrate gets ahead of others
  bool incremental_output = false;       // streams of /generate bring only what is new
  double health_timeout_s = 20;          // of /health_generate
  double max_step_age_s = 60;            // /health says 503 when work waits and no step ended for so long
  // Or when this names a rank that says nothing; may be empty.
  std::function<std::string()> silent_rank = {};
  double stop_timeout_s = 2;           // stop() lets answers leave for so long
  int workers = 2;                     // threads that parse, render and tokenise
  int grammar_threads = 2;             // threads that compile grammars
  double grammar_timeout_s = 30;       // strings of bounded length take seconds over 250,000 tokens
  size_t max_stored_bytes = 64 << 20;  // of responses that clients may come back to
  bool log_requests = false;           // one line for each request: sizes and times, nothing of what it says
};

struct HttpRequest {
  std::string method;                        // "GET"
  std::string path;                          // percent-decoded, without the query
  std::map<std::string, std::string> query;  // by name, percent-decoded
  std::string host, origin, content_type, authorization, api_key_header, timeout_header;
  std::string request_id;         // the client's name for it: fit for a header and a log; without one, ours
  std::string traceparent;        // as the client sent it (https://www.w3.org/TR/trace-context), or ""
  std::string preflight_headers;  // those that a page of another origin wants to send
  std::string client;             // whose it is: the key that was shown and is known, else the address
  std::string body;
  bool keep_alive = true;
  bool http_1_0 = false;
  bool cross_site = false;  // a page of another site had a browser ask (https://www.w3.org/TR/fetch-metadata)
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  std::string allow;            // value of the Allow header, with 405
  std::string security_policy;  // value of Content-Security-Policy, for pages
  std::string cache_control;
  std::string content_encoding;
  std::optional<ApiError> error;  // that `body` tells of, for the log
};
HttpResponse error_response(const ApiError& error, Dialect dialect = Dialect::openai);

// Turns what the engine says about the choices of one request into the bytes that its client reads. No clock, no
// socket; used by one thread. Emissions are never aborted by failure here: those end the request before they come in.
class Answer {
 public:
  virtual ~Answer() = default;
  virtual std::string start() = 0;                                 // streams: events due as soon as all is admitted
  virtual std::string take(size_t choice, Emission emission) = 0;  // streams: events, maybe none
  virtual std::string finish() = 0;  // after the last emission of every choice: last events, or the whole body
  // Instead of finish: the last events of a stream where its dialect has others than all do ("").
  virtual std::string fail(const ApiError&) { return ""; }
  // Each event of a choice says all that those before it did: a client that reads slowly needs only the newest.
  virtual bool is_cumulative() const { return false; }
  // Of a stream: the engine's refusal is told in it, not with a status.
  virtual bool streams(const ApiError&) const { return false; }
};

// What the answers of some of a job's requests must match; compiled before they go to the engine.
struct GrammarOrder {
  std::string structural_tag;   // see runtime/text/grammars/grammar.h
  std::string param;            // the field that demands it
  size_t first = 0, count = 0;  // of the job's requests
};

// A request for text, checked and tokenised: what the engine is to do and who writes the answer.
struct Job {
  std::string id;
  std::string prompt_param;               // the field to name when the prompt does not fit
  std::vector<GenerateRequest> requests;  // in order of the answer's choices
  std::vector<GrammarOrder> grammars;     // of those; their requests' `grammar` is not set yet
  std::unique_ptr<Answer> answer;
  bool stream = false;
  int stream_interval = 1;  // tokens of a choice that go into one event; the first and the last do not wait
  std::string client;       // "": nobody's
  double deadline_s = 0;    // 0: none; after it the request fails with 503, even if the engine hangs
  Dialect dialect = Dialect::openai;
};

struct AbortCommand {
  std::string rid;
  bool all = false;
  std::string answer = "{}";  // the body
};

using Outcome = std::variant<HttpResponse, Job, AbortCommand>;

std::string random_id();  // 32 hex digits

}  // namespace kt
