// `ktmpi serve`: from options to a running job. Set-up goes in phases that all ranks leave together: whatever one rank
// finds wrong is said once and ends all of them with its exit code, before the next phase begins.

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <thread>

#include "launcher/commands.h"
#include "launcher/expert_source.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/comm/cores.h"
#include "runtime/comm/topology.h"
#include "runtime/comm/transport.h"
#include "runtime/config/run_config.h"
#include "runtime/engine/engine.h"
#include "runtime/model/cluster_runner.h"
#include "runtime/model/expert_rank.h"
#include "runtime/model/memory_plan.h"
#include "runtime/serve/http.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/output_parser.h"
#include "runtime/text/tokenizer.h"

namespace kt {
namespace {

constexpr int kMaxLogitRows = 256;       // of a step
constexpr int kDefaultKvTokens = 65536;  // without max-total-tokens, when the context is longer

// Runs one phase of the set-up on this rank and returns when it is done on all; false if it failed anywhere. A phase
// either fails on all ranks or talks to other ranks before anything in it can fail.
// The lowest rank that failed says why.
struct Phases {
  Transport& transport;
  int exit_code = kExitOk;

  bool run(const std::function<void()>& phase) {
    std::string failure;  // exit code, a space, the message
    try {
      phase();
    } catch (const Error& e) {
      failure = fmt::format("{} {}", static_cast<int>(e.exit_code()), e.what());
    } catch (const std::bad_alloc&) {
      failure = fmt::format("{} out of memory", static_cast<int>(kExitTryAgain));
    }
    const std::vector<std::string> failures = all_gather(transport, failure);
    const auto first = std::find_if(failures.begin(), failures.end(), [](const std::string& f) { return !f.empty(); });
    if (first == failures.end()) return true;
    exit_code = std::atoi(first->c_str());
    if (first - failures.begin() == transport.rank())
      fmt::print(stderr, "ktmpi: {}\n", std::string_view(*first).substr(first->find(' ') + 1));
    return false;
  }
};

std::unique_ptr<Transport> make_transport(const RunConfig& run, int* argc, char*** argv) {
  const bool launched = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMIX_RANK") || std::getenv("PMI_RANK");
  if (run.transport == "mpi" || (run.transport == "auto" && launched)) return make_mpi_transport(argc, argv);
  return std::move(make_local_transports(1).front());
}

EngineConfig engine_config(const RunConfig& run, const ModelConfig& model) {
  EngineConfig e;
  e.context_length = run.context_length.value_or(model.max_context);
  if (e.context_length > model.max_context)
    fail(kExitUsage, "context-length {}: the model's config.json allows {}", e.context_length, model.max_context);
  if (run.max_running_requests) e.max_running_requests = *run.max_running_requests;
  if (e.max_running_requests > kMaxLogitRows - kBlockTokens)
    fail(kExitUsage, "max-running-requests {}: at most {}", e.max_running_requests, kMaxLogitRows - kBlockTokens);
  const int tokens =
      run.max_total_tokens.value_or(std::min(kDefaultKvTokens, e.context_length * e.max_running_requests));
  e.kv_blocks = std::max(1, tokens / kBlockTokens);
  if (run.max_queued_requests) e.max_queued_requests = *run.max_queued_requests;
  if (run.chunked_prefill_size) e.chunked_prefill_size = *run.chunked_prefill_size;
  e.enable_mixed_chunk = run.enable_mixed_chunk;
  e.max_decode_stall_ms = run.max_decode_stall_ms;
  e.prefix_cache = !run.disable_radix_cache;
  e.recurrent =
      std::any_of(model.layers.begin(), model.layers.end(), [](LayerSpec l) { return l.mixer == Mixer::delta_net; });
  // Each running request has the state after its prompt and that of its answer; others wait for theirs to come back.
  if (e.recurrent && e.prefix_cache) e.state_snapshots = std::max(8, 2 * e.max_running_requests);
  e.max_logit_rows = kMaxLogitRows;
  e.eos = model.eos;
  return e;
}

// The memory of all ranks of this machine together must be there before any of it is taken.
void check_memory(Transport& transport, const Topology& topology, const MemoryPlan& plan) {
  const std::vector<std::string> plans = all_gather(transport, std::to_string(plan.total()));
  size_t machine = 0;
  for (int r = 0; r < topology.world; ++r)
    if (topology.node_of[r] == topology.node_of[topology.rank]) machine += std::stoull(plans[r]);
  const size_t available = available_memory();
  if (machine > available)
    fail(kExitUsage,
         "memory: the ranks of machine {} need {:.1f} GB, {:.1f} GB are available\n  this rank: {}\n"
         "  lower max-total-tokens, chunked-prefill-size or max-running-requests, or use more machines",
         topology.node_of[topology.rank], static_cast<double>(machine) / 1e9, static_cast<double>(available) / 1e9,
         describe(plan));
}

void require_one_table(Transport& transport, const Ops& ops) {
  const std::vector<std::string> names = all_gather(transport, std::string(ops.name));
  for (size_t r = 1; r < names.size(); ++r)
    if (names[r] != names[0])
      fail(kExitUsage,
           "rank 0 has the kernels {}, rank {} has {}: ranks with different kernels may differ in results\n  set "
           "KTMPI_ISA={} for all",
           names[0], r, names[r], std::min(names[0], names[r]));
}

// Signals are taken by one thread; all others are started with them blocked.
sigset_t block_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int s : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&set, s);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return set;
}

// Rank 0 while it serves. SIGINT and SIGTERM answer all open requests with an error at once, because launchers kill a
// second or two later. SIGUSR1 and POST /admin/drain let them finish, at most drain-timeout-s long. Either ends the
// engine's loop. A step that takes too long ends the job.
class Watch {
 public:
  Watch(const sigset_t& signals, Engine& engine, HttpServer& http, Transport& transport, const RunConfig& run)
      : signals_(signals),
        engine_(engine),
        http_(http),
        transport_(transport),
        run_(run),
        thread_([this, name = log_name()](auto done) {
          set_log_name(name);
          while (!done.stop_requested()) look();
        }) {}
  std::stop_token stop_token() const { return stop_.get_token(); }

 private:
  using Clock = std::chrono::steady_clock;

  void look() {
    const timespec nap{0, 200'000'000};
    const int s = sigtimedwait(&signals_, nullptr, &nap);
    if (s == SIGUSR1) engine_.drain();
    if (s == SIGINT || s == SIGTERM) leave(fmt::format("signal {}", s));
    const EngineStats stats = engine_.stats();
    const Clock::time_point now = Clock::now();
    if (stats.draining && !drain_start_ && !stop_.stop_requested()) {
      drain_start_ = now;
      log("draining: {} requests are open, {:.0f} s for them", stats.running + stats.waiting, run_.drain_timeout_s);
    }
    if (drain_start_ && stats.running + stats.waiting == 0) leave("drained");
    if (drain_start_ && std::chrono::duration<double>(now - *drain_start_).count() > run_.drain_timeout_s)
      leave("drain-timeout-s is over");
    if (run_.step_timeout_s > 0 && stats.step_age_s > run_.step_timeout_s) {
      log("no step has finished for {:.0f} s (step-timeout-s {:.0f}): ending the job", stats.step_age_s,
          run_.step_timeout_s);
      transport_.abort(kExitWatchdog);
    }
  }

  void leave(std::string_view why) {
    if (stop_.stop_requested()) return;
    log("{}: leaving", why);
    engine_.drain();
    http_.end_requests("The server is shutting down.");
    stop_.request_stop();
  }

  const sigset_t& signals_;
  Engine& engine_;
  HttpServer& http_;
  Transport& transport_;
  const RunConfig& run_;
  std::optional<Clock::time_point> drain_start_;
  std::stop_source stop_;
  std::jthread thread_;
};

// The parser options' "none" is no name of a format.
OutputParserOptions output_formats(const RunConfig& run) {
  const auto name = [](const std::string& given) { return given == "none" ? "" : given; };
  return formats_named(name(run.tool_call_parser), name(run.reasoning_parser));
}

std::vector<ServedRank> served_ranks(Topology topology) {
  std::vector<ServedRank> ranks;
  for (topology.rank = 0; topology.rank < topology.world; ++topology.rank)
    ranks.push_back({topology.node_of[topology.rank], topology.role_name()});
  return ranks;
}

void write_url_file(const std::string& path, const std::string& url) {
  if (path.empty()) return;
  const std::string part = path + ".part";
  std::ofstream(part) << url << '\n';
  std::error_code error;
  std::filesystem::rename(part, path, error);
  if (error) fail(kExitUsage, "url-file {}: {}", path, error.message());
}

// Everything of a rank between start and end of the job.
int serve(const RunConfig& run, Transport& transport, const sigset_t& signals) {
  Phases phases{transport};
  const int rank = transport.rank(), world = transport.size();

  Topology topology;
  std::optional<HttpServer> http;
  std::optional<LoadedConfig> loaded;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<ExpertFiles> experts;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;
  OutputParserOptions formats;
  TrunkShare share;
  EngineConfig engine_options;
  const Ops* ops = nullptr;
  const auto read_set_up = [&] {
    topology = plan_topology(
        {.tensor_parallel = run.tensor_parallel_size, .experts_per_node = run.kt_threadpool_count.value_or(-1)}, rank,
        transport.nodes());
    set_log_name(fmt::format("r{} {}", rank, topology.role_name()));
    try {
      ops = &choose_ops();
    } catch (const std::runtime_error& e) {
      fail(kExitUsage, "{}", e.what());
    }
    loaded.emplace(load_model_config(run.model));
    engine_options = engine_config(run, loaded->config);
    trunk_share(loaded->config, 0, run.tensor_parallel_size);  // the heads divide, also in a world of one
    share = trunk_share(loaded->config, std::max(0, topology.trunk_index()), static_cast<int>(topology.trunk.size()));
    checkpoint = run.load_format == "dummy" ? dummy_checkpoint({.norm_plus_one = loaded->config.norm_plus_one})
                                            : open_checkpoint(run.model);
    experts = find_experts(run, *loaded, *checkpoint);
    if (rank != 0) return;
    if (!experts->warning.empty()) log("{}", experts->warning);
    for (const std::string& w : run.warnings) log("{}", w);
    formats = output_formats(run);
    tokenizer = load_tokenizer(run.tokenizer_path);
    try {
      chat_template = load_chat_template(run.model, run.chat_template);
    } catch (const Error& e) {
      if (e.exit_code() != kExitModel) throw;  // a model without a template serves everything but chats
      log("no chat template: {}", e.what());
    }
    http.emplace(HttpConfig{.host = run.host,
                            .port = run.port,
                            .api_key = run.api_key,
                            .admin_api_key = run.admin_api_key,
                            .version = KTMPI_VERSION,
                            .max_step_age_s = run.step_timeout_s,
                            .log_requests = true});
    log("listening on {}", http->url());
  };
  if (!phases.run(read_set_up)) return phases.exit_code;

  const ModelConfig& model = loaded->config;
  const TrunkLimits limits{.max_rows = max_step_rows(engine_options), .max_logit_rows = kMaxLogitRows};
  const CacheLimits cache_limits{.blocks = engine_options.kv_blocks,
                                 .slots = engine_options.max_running_requests,
                                 .snapshots = engine_options.state_snapshots};
  const bool is_trunk = topology.trunk_index() >= 0;
  const int expert_parts = static_cast<int>(topology.experts.size());
  const Range columns =
      topology.expert_index() >= 0 ? inter_part(model.moe.inter, topology.expert_index(), expert_parts) : Range{};
  CorePlan cores;
  const auto place = [&] {
    require_one_table(transport, *ops);
    cores = plan_cores(transport, topology, {run.trunk_threads, run.kt_cpuinfer, run.kt_numa_nodes});
    for (const std::string& w : cores.warnings) log("{}", w);
  };
  const auto plan = [&] {
    const MemoryPlan memory =
        plan_memory(model, is_trunk, share, columns, experts->source.format, cache_limits, limits, share.count);
    log("kernels {}, {} threads{}; memory {}", ops->name, cores.threads, cores.cores.empty() ? "" : ", pinned",
        describe(memory));
    check_memory(transport, topology, memory);
  };
  if (!phases.run(place) || !phases.run(plan)) return phases.exit_code;

  ThreadPool pool(cores.threads, cores.cores);
  const KernelContext kernels{*ops, pool};
  std::optional<TrunkWeights> trunk_weights;
  std::optional<ExpertBank> bank;
  std::optional<StateCache> cache;
  std::optional<Trunk> trunk;
  const auto load = [&] {
    if (is_trunk) trunk_weights.emplace(load_trunk(*checkpoint, loaded->arch, model, share, pool, cores.numa_node));
    if (topology.expert_index() >= 0)
      bank.emplace(load_experts(experts->source, model, columns, pool, cores.numa_node));
    if (!is_trunk) return;
    cache.emplace(model, share, cache_limits, pool, cores.numa_node);
    trunk.emplace(make_trunk(transport, topology, kernels, *checkpoint, model, share, *trunk_weights,
                             bank ? &*bank : nullptr, *cache, limits, cores.numa_node));
  };
  if (!phases.run(load)) return phases.exit_code;
  if (cores.numa_node >= 0 && bank)
    if (const int64_t pages = misplaced_pages(bank->storage, cores.numa_node); pages > 0)
      log("{} of the sampled pages of the experts are not on NUMA node {}", pages, cores.numa_node);

  if (rank != 0) {
    if (trunk)
      serve_trunk(*trunk);
    else if (bank)
      serve_experts(transport, topology, kernels, model, *bank, limits.max_rows);
    return kExitOk;
  }

  ClusterRunner runner(transport, topology, model, trunk ? &*trunk : nullptr);
  const std::unique_ptr<Engine> engine = make_engine(engine_options, runner, *tokenizer);
  Watch watch(signals, *engine, *http, transport, run);
  http->serve(*engine, {.name = run.served_model_name,
                        .model_path = run.model,
                        .tokenizer_path = run.tokenizer_path,
                        .architecture = model.architecture,
                        .model_type = loaded->raw.value("model_type", ""),
                        .max_context = engine->stats().max_context,
                        .vocab = model.vocab,
                        .eos = model.eos,
                        .tokenizer = tokenizer.get(),
                        .chat_template = chat_template.get(),
                        .reasoning = formats.reasoning,
                        .tools = formats.tools,
                        .defaults = loaded->sampling,
                        .ranks = served_ranks(topology),
                        .server_info_json = to_json(run)});
  write_url_file(run.url_file, http->url());
  log("ready: {} on {} ranks, {} tokens of KV cache, {}", run.served_model_name, world,
      engine_options.kv_blocks * kBlockTokens, http->url());
  engine->run(watch.stop_token());
  http->stop();
  runner.dismiss();
  return kExitOk;
}

}  // namespace

int serve_command(int argc, char** argv) {
  const RunConfig run = parse_run_config(argc, argv);
  const sigset_t signals = block_signals();  // before MPI starts threads of its own
  const std::unique_ptr<Transport> transport = make_transport(run, &argc, &argv);
  try {
    const int code = serve(run, *transport, signals);
    transport->barrier();
    return code;
  } catch (const std::exception& e) {
    // Past the set-up: the other ranks wait in a step and cannot be asked.
    log("{}", e.what());
    const auto* error = dynamic_cast<const Error*>(&e);
    transport->abort(error ? error->exit_code() : kExitPeerLost);
    return kExitPeerLost;  // not reached; g++ 12 does not see that
  }
}

}  // namespace kt
