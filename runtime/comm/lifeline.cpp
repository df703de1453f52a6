#include "runtime/comm/lifeline.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "runtime/base/host_name.h"
#include "runtime/base/log.h"
#include "runtime/comm/rendezvous.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kInterval = std::chrono::milliseconds(250);
constexpr auto kFarewell = std::chrono::seconds(2);  // for the other side to leave too

// Messages are numbers of 8 bytes: a pulse, which is not negative; -1 - c from who leaves with exit code c; or from
// rank 0, kWithout - r: all go on without rank r.
constexpr int64_t kWithout = -1'000'000;
constexpr int64_t said_of(int exit_code) { return -1 - exit_code; }

}  // namespace

struct Lifeline::Line {
  int rank = 0;
  Descriptor socket;
  std::string in, out;  // bytes of messages that are not whole yet
  int64_t heard = 0;
  Clock::time_point when = Clock::now();
  Clock::duration silence = {};  // that this rank has been there to notice
  std::atomic<bool> open = true;
  bool left = false;  // what comes after is no loss
};

Lifeline::Lifeline(Transport& transport, OnLoss on_loss, LifelineOptions options)
    : rank_(transport.rank()), on_loss_(std::move(on_loss)), options_(std::move(options)) {
  hosts_ = all_gather(transport, host_name());
  std::vector<Descriptor> sockets = meet_at_rank_0(transport, options_.interfaces);
  for (size_t r = 0; r < sockets.size(); ++r) {
    if (sockets[r].fd() < 0) continue;
    lines_.push_back(std::make_unique<Line>());
    lines_.back()->rank = static_cast<int>(r);
    lines_.back()->socket = std::move(sockets[r]);
  }
  if (lines_.empty()) return;
  thread_ = std::jthread([this] { run(); });
}

Lifeline::~Lifeline() {
  leaving_ = true;
  if (thread_.joinable()) thread_.join();
  // A socket that is closed with unread bytes resets the connection, and the other side would not see the farewell.
  for (const auto& line : lines_) {
    tell(*line, said_of(0));
    shutdown(line->socket.fd(), SHUT_WR);
  }
  const Clock::time_point end = Clock::now() + kFarewell;
  for (const auto& line : lines_)
    while (line->open && Clock::now() < end) {
      pollfd waiting{line->socket.fd(), POLLIN, 0};
      poll(&waiting, 1, 50);
      line->open = look(*line);
    }
}

void Lifeline::set_pulse(std::function<int64_t()> pulse) {
  const std::lock_guard lock(mutex_);
  pulse_ = std::move(pulse);
}

int64_t Lifeline::pulse() const {
  const std::lock_guard lock(mutex_);
  int64_t sum = pulse_ ? pulse_() : 0;
  for (const auto& line : lines_) sum += line->heard;
  return sum;
}

void Lifeline::set_go_on(GoOn go_on) {
  const std::lock_guard lock(mutex_);
  go_on_ = std::move(go_on);
}

void Lifeline::set_roles(std::vector<std::string> roles) {
  const std::lock_guard lock(mutex_);
  roles_ = std::move(roles);
}

std::string Lifeline::name(int rank) const {
  const size_t r = static_cast<size_t>(rank);
  const std::lock_guard lock(mutex_);
  return fmt::format("rank {} ({}host {})", rank, r < roles_.size() ? roles_[r] + ", " : "", hosts_.at(r));
}

std::vector<std::string> Lifeline::silent(double seconds) const {
  std::vector<int> ranks;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& line : lines_)
      if (line->open && std::chrono::duration<double>(Clock::now() - line->when).count() > seconds)
        ranks.push_back(line->rank);
  }
  std::vector<std::string> names;
  for (const int rank : ranks) names.push_back(name(rank));
  return names;
}

void Lifeline::end_job(int exit_code) {
  leaving_ = true;
  for (const auto& line : lines_) tell(*line, said_of(exit_code));
}

void Lifeline::run() {
  std::vector<pollfd> waiting;
  Clock::time_point next = Clock::now();  // when this rank tells its pulse again
  Clock::time_point looked = next;
  while (!leaving_ && !lost_) {
    waiting.clear();
    for (const auto& line : lines_)
      if (line->open) waiting.push_back({line->socket.fd(), POLLIN, 0});
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
    poll(waiting.data(), waiting.size(), std::max(0, static_cast<int>(left)));
    for (const auto& line : lines_)
      if (line->open && !leaving_ && !look(*line)) {
        line->open = false;
        if (!line->left) lose({line->rank, std::nullopt});
      }
    lose_silent(Clock::now() - looked);
    looked = Clock::now();
    if (Clock::now() < next) continue;  // an answer to every message would be answered, and so on
    next = Clock::now() + kInterval;
    int64_t pulse = 0;
    {
      const std::lock_guard lock(mutex_);
      if (pulse_) pulse = pulse_();
    }
    for (const auto& line : lines_)
      if (line->open && !leaving_) tell(*line, pulse);
  }
}

// A rank that was stopped itself has missed what came meanwhile, and finds it when it looks.
void Lifeline::lose_silent(Clock::duration passed) {
  if (options_.silence_s.count() <= 0) return;
  for (const auto& line : lines_) {
    {
      const std::lock_guard lock(mutex_);
      line->silence += std::min<Clock::duration>(passed, 2 * kInterval);
      if (!line->open || line->silence < options_.silence_s) continue;
    }
    if (leaving_ || lost_) return;
    log_error("{} has said nothing for {:.0f} s (peer-timeout-s)", name(line->rank), options_.silence_s.count());
    lose({line->rank, std::nullopt});
  }
}

bool Lifeline::look(Line& line) {
  char bytes[512];
  for (;;) {
    const ssize_t n = recv(line.socket.fd(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) return false;
    line.in.append(bytes, static_cast<size_t>(n));
    int64_t number = 0;
    for (; line.in.size() >= sizeof number; line.in.erase(0, sizeof number)) {
      std::memcpy(&number, line.in.data(), sizeof number);
      if (number <= kWithout) {
        goes_on_without(static_cast<int>(kWithout - number));
        continue;
      }
      if (number < 0) line.left = true;
      if (number < said_of(0)) lose({line.rank, static_cast<int>(said_of(0) - number)});
      const std::lock_guard lock(mutex_);
      line.when = Clock::now();
      line.silence = {};
      if (number >= 0) line.heard = number;
    }
  }
}

// What the kernel does not take at once goes with a later message; of pulses the last one is enough.
void Lifeline::tell(Line& line, int64_t number) {
  const std::lock_guard lock(mutex_);
  if (line.out.empty() || number < 0) line.out.append(reinterpret_cast<const char*>(&number), sizeof number);
  const ssize_t n = send(line.socket.fd(), line.out.data(), line.out.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n > 0) line.out.erase(0, static_cast<size_t>(n));
}

void Lifeline::lose(const Loss& loss) {
  if (leaving_ || lost_) return;
  if (!loss.exit_code && rank_ == 0 && goes_on_without(loss.rank)) return;
  lost_ = true;
  on_loss_(loss);
}

// A rank that is frozen and wakes again finds its line closed, and leaves.
bool Lifeline::goes_on_without(int rank) {
  GoOn go_on;
  {
    const std::lock_guard lock(mutex_);
    go_on = go_on_;
  }
  const std::vector<int> leaving = go_on ? go_on(rank) : std::vector<int>();
  if (rank_ != 0 || leaving.empty()) return !leaving.empty();
  for (const auto& line : lines_) {
    if (line->rank != rank && line->open) tell(*line, kWithout - rank);
    if (std::find(leaving.begin(), leaving.end(), line->rank) != leaving.end()) line->left = true;
    if (line->rank != rank) continue;
    line->open = false;
    shutdown(line->socket.fd(), SHUT_RDWR);
  }
  return true;
}

}  // namespace kt
