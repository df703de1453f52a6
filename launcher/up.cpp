// `ktmpi up`: starts a job and, after a fault, starts it again. The port stays open all along: it is lent to the job's
// rank 0, and answered here while there is none.

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/program_options.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/http_config.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/config/run_config.h"
#include "runtime/serve/http/http.h"
#include "runtime/supervise/child.h"
#include "runtime/supervise/port_loan.h"
#include "runtime/supervise/restart.h"
#include "runtime/supervise/server_command.h"

namespace kt {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kHelp =
    "Usage: ktmpi up [--max-restarts N] [LAUNCHER ...] ktmpi [OPTION ...]\n\n"
    "Starts the command behind it, a server with or without a launcher, and starts it again after a fault:\n\n"
    "  ktmpi up mpirun -np 3 ktmpi --config server.yaml\n\n"
    "The port stays open: while no rank 0 has it, requests are answered 503 with Retry-After. Rank 0 has to run on\n"
    "this machine.\n\n"
    "  --max-restarts N  in an hour, at most (default 10); then it leaves with the job's exit code\n\n"
    "The first SIGINT, SIGTERM or SIGUSR1 lets open requests finish, the second one does not. The exit code is the\n"
    "job's, or 0 when stopped before it served; 70, 71, 75, 77, 205, 255 and those of signals lead to another start.\n";

constexpr double kPatience = 5;  // seconds from the second signal until the job is killed
constexpr double kLinger = 15;  // seconds a launcher has to end after rank 0: mpirun waits for machines that are frozen
constexpr double kUsual = 120;  // seconds from the start by when a rank 0 has the port
constexpr int kPollInterval = 1;  // seconds
constexpr double kNever = std::numeric_limits<double>::infinity();

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

struct Options {
  ServerCommand command;
  RunConfig run;
  int max_restarts = 10;
  bool help = false;
};

Options read_command(int argc, char** argv) {
  Options o;
  po::options_description known;
  known.add_options()("max-restarts", po::value(&o.max_restarts))("help,h", po::bool_switch(&o.help));
  const std::vector<std::string> words(argv + 1, argv + argc);
  size_t own = 0;  // words before the command
  while (own < words.size() && words[own].starts_with("-")) own += words[own] == "--max-restarts" ? 2 : 1;
  own = std::min(own, words.size());
  try {
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::variables_map values;
    po::store(po::command_line_parser({words.begin(), words.begin() + static_cast<long>(own)})
                  .options(known)
                  .style(style)
                  .run(),
              values);
    po::notify(values);
  } catch (const po::error& error) {
    fail(kExitUsage, "up: {}; the server's options come behind its name, as in ktmpi up mpirun -np 3 ktmpi --port 1",
         error.what());
  }
  if (o.help) return o;
  if (o.max_restarts < 0) fail(kExitUsage, "--max-restarts: expected 0 or more, found {}", o.max_restarts);
  if (std::getenv("OMPI_COMM_WORLD_RANK") || std::getenv("PMIX_RANK"))
    fail(kExitUsage, "up: a launcher has started it; it starts the launcher itself: ktmpi up mpirun -np 3 ktmpi ...");
  o.command = parse_server_command(std::span(words).subspan(own));
  o.run = parse_run_config(o.command.arguments);
  return o;
}

// What can be shown of a command: the server's options may hold keys.
std::string shown(const ServerCommand& command) {
  return fmt::format("{} ...", fmt::join(std::span(command.words).first(command.program + 1), " "));
}

class Supervisor {
 public:
  Supervisor(const Options& options, int signals, PortLender& lender, HttpServer& http)
      : options_(options), signals_(signals), lender_(lender), http_(http), port_(http.sockets()) {}

  int run() {
    for (;;) {
      const JobEnd end = run_job();
      if (stops_ > 0) {
        const int code = was_ready_ ? end.code : kExitOk;  // launchers end loading ranks with codes of their own
        log("the job ended with {}: leaving with {}", end.code, code);
        return code;
      }
      const Verdict verdict = judge(end, now_s(), options_.max_restarts, history_);
      if (!verdict.again) {
        log_at(verdict.code == kExitOk ? LogLevel::info : LogLevel::error, "the job ended with {}: {}; leaving with {}",
               end.code, verdict.why, verdict.code);
        return verdict.code;
      }
      ++restarts_;
      log_warning("the job ended with {}: starting it again in {:.0f} s, restart {} of at most {} in an hour", end.code,
                  verdict.delay_s, history_.times.size(), options_.max_restarts);
      if (!rest(verdict.delay_s)) return kExitOk;
    }
  }

 private:
  struct Job {
    pid_t pid = 0;
    double start_s = 0;
    std::optional<double> ready_s;
    double kill_s = kNever;
    bool took_port = false, warned = false;
  };

  JobEnd run_job() {
    Job job{.pid = start_child(options_.command.words), .start_s = now_s()};
    log("started {} as process {}", shown(options_.command), job.pid);
    std::optional<int> code;
    while (!code) {
      look(job);
      code = exit_code_of(job.pid);
    }
    was_ready_ = job.ready_s.has_value();
    const double served_s = job.ready_s ? now_s() - *job.ready_s : 0;
    end_children();
    lender_.evict();
    http_.resume();
    return {code_of(job, *code), job.took_port, served_s};
  }

  // Where a job may go on without ranks, launchers do not leave with its code: mpirun --enable-recovery always with 0,
  // srun with that of a rank that was lost.
  int code_of(const Job& job, int launchers) const {
    if (const auto told = lender_.exit_code(); told && job.took_port) return *told;
    return launchers == kExitOk && was_ready_ ? kExitPeerLost : launchers;
  }

  // Waits for something to happen to the job, a while at most.
  void look(Job& job) {
    std::array<pollfd, 3> watched = {
        {{signals_, POLLIN, 0}, {lender_.door(), POLLIN, 0}, {lender_.borrower(), POLLIN, 0}}};
    poll(watched.data(), watched.size(), kPollInterval * 1000);
    for (int s = 0; (s = next_signal()) != 0;) stop(job, s);
    if (watched[2].revents != 0) hear(job);
    if (watched[1].revents != 0 && lender_.lend(port_, restarts_)) {
      job.took_port = true;
      http_.pause();
    }
    if (now_s() > job.kill_s) {
      if (stops_ == 0) log_warning("the launcher has stayed for {:.0f} s after rank 0: killing it", kLinger);
      kill(-job.pid, SIGKILL);
      job.kill_s = kNever;
    }
    if (!job.took_port && !job.warned && now_s() > job.start_s + kUsual) {
      job.warned = true;
      log_warning("no rank 0 has come for the port in {:.0f} s: it has to run on this machine", kUsual);
    }
  }

  void hear(Job& job) {
    switch (lender_.hear()) {
      case PortLender::News::none: return;
      case PortLender::News::ready:
        job.ready_s = now_s();
        return log("the job is ready, {:.1f} s after its start", *job.ready_s - job.start_s);
      case PortLender::News::gone:
        if (stops_ == 0) log("rank 0 is gone: requests are answered 503");
        job.kill_s = std::min(job.kill_s, now_s() + kLinger);
        return http_.resume();
    }
  }

  // mpirun and srun pass SIGUSR1 on to all ranks at once. While they load there is nothing to drain.
  void stop(Job& job, int signal) {
    const bool drains = ++stops_ == 1 && job.ready_s;
    if (stops_ > 1) job.kill_s = now_s() + kPatience;
    log("signal {}: {}", signal, drains ? "draining the job" : "ending the job");
    kill(job.pid, drains ? SIGUSR1 : SIGTERM);
  }

  // The number of one that asks to stop; 0 if none has come.
  int next_signal() const {
    signalfd_siginfo info{};
    while (read(signals_, &info, sizeof info) == sizeof info)
      if (info.ssi_signo != SIGCHLD) return static_cast<int>(info.ssi_signo);
    return 0;
  }

  // False if a signal came meanwhile, when there is no job to stop.
  bool rest(double seconds) const {
    for (const double end_s = now_s() + seconds; now_s() < end_s;) {
      pollfd watched{signals_, POLLIN, 0};
      poll(&watched, 1, static_cast<int>((end_s - now_s()) * 1000) + 1);
      if (const int s = next_signal()) {
        log("signal {} while no job runs: leaving", s);
        return false;
      }
    }
    return true;
  }

  const Options& options_;
  const int signals_;
  PortLender& lender_;
  HttpServer& http_;
  const std::vector<int> port_;
  RestartHistory history_;
  int restarts_ = 0;
  int stops_ = 0;           // signals that asked for it
  bool was_ready_ = false;  // the last job, at its end
};

}  // namespace

int up_command(int argc, char** argv) {
  const Options options = read_command(argc, argv);
  if (options.help) {
    print_help(kHelp);
    return kExitOk;
  }
  set_log_name(-1, "up");
  sigset_t signals;
  sigemptyset(&signals);
  for (int s : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD}) sigaddset(&signals, s);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // in the threads to come, too
  const Descriptor signal_file(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  signal(SIGCHLD, SIG_DFL);  // some that start programs ignore it, and then ends of children would not be told
  adopt_orphans();
  PortLender lender;  // before there are threads: it changes the environment
  HttpServer http(http_config(options.run));
  log("listening on {}", http.url());
  return Supervisor(options, signal_file.fd(), lender, http).run();
}

}  // namespace kt
