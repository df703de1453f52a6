// `ktmpi serve`: a job whose rank 0 answers HTTP, from its set-up to a clean end.

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <thread>

#include "launcher/commands.h"
#include "launcher/http_config.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/base/prometheus.h"
#include "runtime/client/servers_here.h"
#include "runtime/config/hub_cache.h"
#include "runtime/engine/step_recorder.h"
#include "runtime/policy/expert_metrics.h"
#include "runtime/policy/expert_policy.h"
#include "runtime/rank/job.h"
#include "runtime/rank/job_policy.h"
#include "runtime/rank/regroup.h"
#include "runtime/recording/counts_file.h"
#include "runtime/serve/http/http.h"
#include "runtime/supervise/port_loan.h"
#include "runtime/text/answers/call_form.h"
#include "runtime/text/answers/output_parser.h"
#include "runtime/text/grammars/grammar.h"
#include "runtime/text/templates/chat_template.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {
namespace {

// Signals are taken by one thread; all others are started with them blocked.
sigset_t block_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&set, s);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return set;
}

// mpirun kills its ranks two seconds after SIGTERM. srun and service managers wait: they let a drain end.
bool is_killed_soon() { return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr; }

// Whom the lifeline will give up soon; "" if nobody.
std::string silent_rank(const JobRank& job) {
  constexpr double kSoon = 0.6;  // of its patience
  const double patience = job.run.peer_timeout_s;
  const auto silent = patience > 0 ? job.lifeline->silent(kSoon * patience) : std::vector<std::string>{};
  return silent.empty() ? "" : silent.front();
}

// Rank 0 while it serves. SIGUSR1 and POST /admin/drain let open requests finish, at most drain-timeout-s long; so does
// the first SIGINT or SIGTERM, unless whoever sends it is `hasty`: then, and at the second one, all of them are
// answered with an error at once. Either ends the engine's loop. A step that takes too long ends the job.
class Watch {
 public:
  Watch(const sigset_t& signals, bool hasty, Engine& engine, HttpServer& http, JobRank& job)
      : signals_(signals), hasty_(hasty), engine_(engine), http_(http), job_(job), thread_([this](auto done) {
          while (!done.stop_requested()) look();
        }) {
    job_.tell_before_end([this](const std::string& why) { end_requests(why, "rank_lost"); });
  }
  ~Watch() { job_.tell_before_end(nullptr); }
  std::stop_token stop_token() const { return stop_.get_token(); }

 private:
  using Clock = std::chrono::steady_clock;
  // mpirun sends SIGTERM also when a rank has died. Then the lifeline has known it for as long, or will in a moment.
  static constexpr std::chrono::milliseconds kNews{100};
  static constexpr double kSilent = 2.0;  // seconds

  void look() {
    const timespec nap{0, 200'000'000};
    const int s = sigtimedwait(&signals_, nullptr, &nap);
    const bool ends = s == SIGINT || s == SIGTERM;
    if (ends && hasty_) std::this_thread::sleep_for(kNews);
    if (ends && (hasty_ || drain_start_)) leave(fmt::format("signal {}", s));
    if (s == SIGUSR1 || ends) engine_.drain();
    const EngineStats stats = engine_.stats();
    const Clock::time_point now = Clock::now();
    if (stats.draining && !drain_start_ && !stop_.stop_requested()) {
      drain_start_ = now;
      log("draining: {} requests are open, {:.0f} s for them", stats.running + stats.waiting, job_.run.drain_timeout_s);
    }
    if (drain_start_ && stats.running + stats.waiting == 0) leave("drained");
    if (drain_start_ && std::chrono::duration<double>(now - *drain_start_).count() > job_.run.drain_timeout_s)
      leave("drain-timeout-s is over");
    if (job_.run.step_timeout_s > 0 && stats.step_age_s > job_.run.step_timeout_s) {
      log_error("no rank has gone on with the step for {:.0f} s (step-timeout-s {:.0f}): ending the job",
                stats.step_age_s, job_.run.step_timeout_s);
      for (const std::string& rank : job_.lifeline->silent(kSilent))
        log_error("{} has not been heard of meanwhile", rank);
      end_requests("The engine hangs.", "engine_hangs");
      job_.end_all(kExitWatchdog);
    }
  }

  void end_requests(const std::string& why, std::string code) {
    engine_.drain(why);
    http_.end_requests({503, why, "", std::move(code)});
    std::this_thread::sleep_for(std::chrono::milliseconds(300));  // for the answers to leave
  }

  void leave(std::string_view why) {
    if (stop_.stop_requested() || job_.lifeline->lost()) return;  // the lifeline ends the job, with its own exit code
    // A launcher that sees a machine go before the lifeline is sure.
    if (const auto silent = job_.lifeline->silent(kSilent); hasty_ && !silent.empty()) {
      log_error("{}, and {} has not been heard of for {:.0f} s: ending the job", why, silent.front(), kSilent);
      end_requests(silent.front() + " was lost.", "rank_lost");
      job_.end_all(kExitPeerLost);
    }
    log("{}: leaving", why);
    engine_.drain();
    http_.end_requests({503, kShuttingDown, "", "shutting_down"});
    stop_.request_stop();
  }

  const sigset_t& signals_;
  const bool hasty_;
  Engine& engine_;
  HttpServer& http_;
  JobRank& job_;
  std::optional<Clock::time_point> drain_start_;
  std::stop_source stop_;
  std::jthread thread_;
};

// While a rank loads there is nothing to drain: the first signal ends the job.
class EndWhileLoading {
 public:
  EndWhileLoading(const sigset_t& signals, JobRank& job)
      : thread_([&signals, &job](const std::stop_token& loaded) {
          const timespec nap{0, 100'000'000};
          while (!loaded.stop_requested()) {
            const int s = sigtimedwait(&signals, nullptr, &nap);
            if (s != SIGINT && s != SIGTERM) continue;
            log("signal {} before all was loaded: ending the job", s);
            job.end_all(128 + s);
          }
        }) {}

 private:
  std::jthread thread_;
};

// The parser options' "none" is no name of a format.
OutputParserOptions output_formats(const RunConfig& run) {
  const auto name = [](const std::string& given) { return given == "none" ? "" : given; };
  return formats_named(name(run.tool_call_parser), name(run.reasoning_parser));
}

// The special tokens that may be part of an answer with a form.
std::vector<std::string_view> markup_of(const OutputParserOptions& formats, const Tokenizer& tokenizer) {
  std::vector<std::string_view> markup = {ReasoningParser::kOpen, ReasoningParser::kClose};
  const CallForm* form = formats.tools ? find_call_form(*formats.tools) : nullptr;
  if (!form) return markup;
  const std::vector<std::string_view> of_calls = special_tokens_of(*form, tokenizer);
  markup.insert(markup.end(), of_calls.begin(), of_calls.end());
  return markup;
}

std::vector<ServedRank> served_ranks(const JobRank& job) {
  std::vector<ServedRank> ranks;
  Topology topology = job.topology;
  for (topology.rank = 0; topology.rank < topology.world; ++topology.rank) {
    const size_t r = static_cast<size_t>(topology.rank);
    ranks.push_back({topology.node_of[r], topology.role_name(), job.memory_of_rank[r], job.misplaced_pages_of_rank[r]});
  }
  return ranks;
}

int slurm_restarts() {
  const char* count = std::getenv("SLURM_RESTART_COUNT");
  return count ? std::atoi(count) : 0;
}

constexpr size_t kMostLayers = 512;  // of all ranks together, that have lines of their own

// Beside what the HTTP side knows: each layer's work and wait on every rank, how fast the ranks could read, and when
// each was last heard of.
std::string rank_metrics(const ClusterRunner& runner, const std::vector<double>& rates, std::span<const int> lost) {
  const std::vector<ClockReading> readings = runner.readings();
  const std::vector<double> ages = runner.heartbeat_ages();
  PrometheusText text;
  const auto layers = [&](const std::function<double(const LayerTotal&)>& value) {
    for (size_t r = 0; r < readings.size(); ++r)
      for (size_t l = 0; l < readings[r].layers.size() && readings.size() * readings[r].layers.size() <= kMostLayers;
           ++l)
        for (const Phase phase : {Phase::prefill, Phase::decode})
          if (const double x = value(readings[r].layers[l][static_cast<size_t>(phase)]); x > 0.0)
            text.add({{"rank", r}, {"phase", name_of(phase)}, {"layer", l}}, x);
  };
  text.counter("layer_seconds_total", "Time of a rank at work on a layer");
  layers([](const LayerTotal& t) { return t.work.seconds; });
  text.counter("layer_bytes_total", "Weights and cached rows that it touched, once for each step");
  layers([](const LayerTotal& t) { return t.work.bytes; });
  text.counter("layer_wait_seconds_total", "Time in which it waited for other ranks in this layer");
  layers([](const LayerTotal& t) { return t.wait_s; });
  text.gauge("rank_read_limit_bytes_per_second", "How fast a rank's threads read its weights, measured at start");
  for (size_t r = 0; r < rates.size(); ++r)
    if (rates[r] > 0) text.add({{"rank", r}}, fmt::format("{:.4g}", rates[r] * 1e9));
  text.gauge("heartbeat_age_seconds", "Since a rank last answered; rank 0 asks every two seconds, between steps");
  for (size_t r = 0; r < ages.size(); ++r)
    if (std::find(lost.begin(), lost.end(), r) == lost.end()) text.add({{"rank", r}}, fmt::format("{:.3f}", ages[r]));
  text.gauge("lost_ranks", "Expert ranks that are gone and without which the others go on", lost.size());
  return text.take();
}

std::string part_of(const std::string& path) { return path + ".part"; }

// A file that is written later, when the model is loaded or at the end: said at the start when it cannot be.
void check_writable(std::string_view option, const std::string& path) {
  if (path.empty()) return;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) fail(kExitUsage, "{} {}: is a folder", option, path);
  if (!std::ofstream(part_of(path)))
    fail(kExitUsage, "{} {}: cannot be written: {}", option, path, std::strerror(errno));
  std::filesystem::remove(part_of(path), error);
}

void write_url_file(const std::string& path, const std::string& url) {
  if (path.empty()) return;
  std::ofstream stream(part_of(path));
  stream << url << '\n';
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(part_of(path), path, error);
  if (!stream || error)
    fail(kExitUsage, "url-file {}: cannot be written: {}", path, error ? error.message() : std::strerror(errno));
}

// What an engine's end has to say leaves before the engine does, also when it ends by an error.
struct Stops {
  HttpServer& http;
  ~Stops() { http.stop(); }
};

// Everything of a rank between start and end of the job.
int serve(JobRank& job, const sigset_t& signals, bool hasty) {
  const RunConfig& run = job.run;
  Transport& transport = job.transport;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  std::optional<GrammarCompiler> grammars;
  std::optional<PortLoan> port;
  std::optional<HttpServer> http;  // ends before what it refers to
  std::optional<ServerNotice> notice;
  OutputParserOptions formats;
  const auto front = [&] {
    formats = output_formats(run);
    tokenizer = load_tokenizer(run.tokenizer_path);
    try {
      chat_template = load_chat_template(run.model, run.chat_template);
    } catch (const Error& e) {
      if (e.exit_code() != kExitModel) throw;  // a model without a template serves everything but chats
      log_warning("no chat template: {}", e.what());
    }
    HttpConfig config = http_config(run);
    check_writable("url-file", run.url_file);
    check_writable("kt-expert-statistics", run.kt_expert_statistics);
    config.silent_rank = [&job] { return silent_rank(job); };
    port = borrow_port();
    http.emplace(std::move(config), port ? port->listeners() : std::vector<int>());
    log("listening on {}", http->url());
    notice.emplace(http->url());
  };
  {
    const EndWhileLoading obey(signals, job);
    if (!set_up(job, front)) {
      if (port) port->tell_exit(job.exit_code);
      return job.exit_code;
    }
  }
  const std::vector<double> rates = weight_rates(job);
  if (job.rank() != 0) {
    follow(job);
    return kExitOk;
  }

  const ModelConfig& model = job.model();
  CompileGrammar compile_grammar;
  FindGrammar find_grammar;
  if (!model.eos.empty()) {
    grammars.emplace(*tokenizer, model.eos, markup_of(formats, *tokenizer));
    compile_grammar = [&](const std::string& tag, std::stop_token stop) {
      return grammars->compile(tag, std::move(stop));
    };
    find_grammar = [&](const std::string& tag) { return grammars->find(tag); };
  }
  ExpertPolicy policy(expert_policy_config(job));
  restore_averages(policy, run);
  Recorder recorder(recorder_config(run, model));
  StepRecorder step_recorder(recorder, &policy.hot_now());
  ExpertLoad expert_load(expert_workers(job), &policy.hot_now());
  std::vector<StepObserver*> observers = {&policy, &step_recorder};
  if (model.moe.experts) observers.push_back(&expert_load);
  ClusterRunner runner(
      transport, job.topology, model, job.trunk ? &*job.trunk : nullptr, job.group.get(), observers,
      [&job] { return job.lifeline->pulse(); },
      [&] {
        const bool goes_on = regroup(job);
        if (goes_on) policy.take_whole_experts();  // some pieces are gone
        return goes_on;
      });
  policy.prepare(runner);
  watch_losses(job);
  const std::unique_ptr<Engine> engine = make_engine(job.engine, runner, *tokenizer);
  Watch watch(signals, hasty, *engine, *http, job);
  http->serve(*engine, {.name = run.served_model_name,
                        .model_path = run.model,
                        .tokenizer_path = run.tokenizer_path,
                        .architecture = model.architecture,
                        .model_type = job.loaded->raw.value("model_type", ""),
                        .max_context = engine->stats().max_context,
                        .vocab = model.vocab,
                        .eos = model.eos,
                        .tokenizer = tokenizer.get(),
                        .chat_template = chat_template.get(),
                        .reasoning = formats.reasoning,
                        .tools = formats.tools,
                        .compile_grammar = compile_grammar,
                        .find_grammar = find_grammar,
                        .defaults = job.loaded->sampling,
                        .recorder = &recorder,
                        .ranks = served_ranks(job),
                        .restarts = slurm_restarts() + (port ? port->restarts() : 0),
                        .server_info_json = to_json(run),
                        .more_metrics =
                            [&] {
                              return to_prometheus(policy.stats()) + expert_load.to_prometheus(runner.totals()) +
                                     rank_metrics(runner, rates, lost_ranks(job));
                            },
                        .expert_status = [&] { return to_json(policy.stats()); },
                        .expert_map = [&] { return to_json(policy.map()); }});
  write_url_file(run.url_file, http->url());
  if (port) port->tell_ready();
  log("ready: {} on {} ranks, {} tokens of KV cache, {}", run.served_model_name, transport.size(),
      job.engine.kv_blocks * kBlockTokens, http->url());
  {
    const Stops stops{*http};
    engine->run(watch.stop_token());
  }
  runner.dismiss();
  if (!run.kt_expert_statistics.empty()) write_counts(run.kt_expert_statistics, policy.averages());
  if (port) port->tell_exit(kExitOk);
  return kExitOk;
}

}  // namespace

int serve_command(int argc, char** argv) {
  const sigset_t signals = block_signals();  // before MPI starts threads of its own
  const bool hasty = is_killed_soon();       // before MPI sets variables of its own
  return run_job(
      argc, argv, [&] { return with_model_folders(parse_run_config(argc, argv)); },
      [&](JobRank& job) { return serve(job, signals, hasty); });
}

}  // namespace kt
