#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <sstream>
#include <thread>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/comm/bell_pipe.h"
#include "runtime/comm/collectives.h"
#include "runtime/comm/neighbours.h"
#include "runtime/comm/ucx_worker.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kMeeting = std::chrono::seconds(30);  // for ways between all ranks to open
constexpr auto kFlushing = std::chrono::seconds(5);  // for what was sent last to leave

// Whatever comes ends a sleep; the limit is for what ends a wait without coming.
constexpr Patience kPatienceUntilWoken{.sleep = std::chrono::seconds(1)};

// A message's tag for UCP: of which job it is (15 bits), what kind it is (1), who sends it (32), what it is about (16).
enum class Kind : uint64_t { message = 0, transfer = 1 };
constexpr uint64_t kWholeTag = ~uint64_t{0};
uint64_t tag_of(uint64_t job, Kind kind, int source, Tag tag) {
  return job | static_cast<uint64_t>(kind) << 48 | static_cast<uint64_t>(source) << 16 | static_cast<uint64_t>(tag);
}

// What ranks of an earlier job send to an address that is this job's now is taken by nobody. Addresses of workers are
// never those of others.
uint64_t job_of(std::span<const std::string> addresses) {
  std::string all;
  for (const std::string& a : addresses) all += a;
  return static_cast<uint64_t>(std::hash<std::string>()(all)) << 49;
}
constexpr uint64_t kNextJob = uint64_t{1} << 49;

const ucp_request_param_t kPlain{};

// The last stage of a wait. Ranks of this machine ring as they do over MPI, but the sleeper waits for its worker too.
class Bed {
 public:
  Bed(Doorbell& bell, BellPipe& pipe, UcxWorker& worker) : bell_(bell), pipe_(pipe), worker_(worker) {}

  uint32_t listen() { return bell_.listen(); }
  void sleep(uint32_t, std::chrono::microseconds limit) {
    if (!worker_.arm()) return;
    pollfd waiting[] = {{worker_.event_fd(), POLLIN, 0}, {pipe_.fd(), POLLIN, 0}};
    const timespec longest{.tv_sec = static_cast<time_t>(limit.count() / 1'000'000),
                           .tv_nsec = static_cast<long>(limit.count() % 1'000'000) * 1000};
    ppoll(waiting, 2, &longest, nullptr);
    if (waiting[1].revents) pipe_.quieten();
  }
  void stop_listening() { bell_.stop_listening(); }

 private:
  Doorbell& bell_;
  BellPipe& pipe_;
  UcxWorker& worker_;
};

// What every rank says, through another door. Ranks that are not there yet may need this worker meanwhile.
std::vector<std::string> gather_beside(UcxWorker& worker, Transport& door, const std::string& mine) {
  for (int r = 0; r < door.size(); ++r)
    if (r != door.rank()) door.send(r, Tag::control, std::as_bytes(std::span(mine)));
  std::vector<std::string> all(static_cast<size_t>(door.size()));
  std::vector<std::byte> room;
  for (int r = 0; r < door.size(); ++r) {
    std::string& said = all[static_cast<size_t>(r)];
    if (r == door.rank()) {
      said = mine;
      continue;
    }
    while (!door.ready(r, Tag::control)) {
      worker.progress();
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    door.receive(r, Tag::control, room);
    said.assign(reinterpret_cast<const char*>(room.data()), room.size());
  }
  door.finish_sends();
  return all;
}

class UcxTransport final : public Transport {
 public:
  // `door`: another one to the same ranks, open as long as this one. Throws on all ranks if on one.
  UcxTransport(Transport& door, bool is_lane) : door_(door), is_lane_(is_lane), node_of_(door.nodes()) {
    std::string address;
    with_all([&] {
      pipes_.try_emplace(rank());
      worker_ = std::make_shared<UcxWorker>();
      address = worker_->address();
    });
    const std::vector<std::string> addresses = all_gather(door_, address);
    job_ = job_of(addresses);
    with_all([&] { worker_->connect(addresses, rank()); });
    with_all([&] { meet(); });
    const std::vector<int> neighbours = ranks_here(*this);
    patience_.spin = spin_time(neighbours.size());
    hang_bells(neighbours);
  }

  ~UcxTransport() override {
    // Leaving by an exception, this rank is alone; see MpiTransport.
    if (std::uncaught_exceptions() > 0) return;
    try {
      finish_sends();
      barrier();
      flush(kFlushing);
      if (times_ > 0) return;  // those left out would be waited for
      // A lane's worker goes with the first one's, since a rank that closes may take from others what it has sent last.
      if (!is_lane_) gather_beside(*worker_, door_, "");
    } catch (const Error& error) {
      std::fprintf(stderr, "while leaving UCX: %s\n", error.what());
    }
  }

  const char* name() const override { return "ucx"; }
  int rank() const override { return door_.rank(); }
  int size() const override { return door_.size(); }
  std::vector<int> nodes() const override { return node_of_; }

  void send(int to, Tag tag, std::span<const std::byte> bytes) override {
    void* request = start_send(Kind::message, to, tag, bytes);
    if (status_of(request) != UCS_OK) sending_.push_back({request, to});
  }

  void finish_sends() override {
    Fault fault;
    if (!wait_until([&] { return sent(fault); })) fail(kExitPeerLost, "messages that nobody takes in time");
    check(fault, "message");
  }

  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    ucp_tag_message_h message = nullptr;
    ucp_tag_recv_info_t info{};
    const bool came = wait_until([&] { return (message = find(from, tag, true, &info)) || worker_->lost(from); });
    if (!message) check({came ? Fault::lost : Fault::late, from}, "message");
    incoming_.resize(info.length);  // stays if this is left by an exception while bytes come
    void* request = ucp_tag_msg_recv_nbx(worker_->get(), incoming_.data(), info.length, message, &kPlain);
    ucs_status_t status = UCS_INPROGRESS;
    const bool ended =
        wait_until([&] { return (status = status_of(request)) != UCS_INPROGRESS || worker_->lost(from); });
    if (status == UCS_INPROGRESS) {
      receiving_ = {request, from};
      check({ended ? Fault::lost : Fault::late, from}, "message");
    }
    release(request);
    if (status != UCS_OK) check({Fault::lost, from}, "message");
    into.swap(incoming_);
  }

  bool ready(int from, Tag tag) override {
    worker_->progress();
    return find(from, tag, false, nullptr) || worker_->lost(from);
  }

  Ticket post_send(int to, Tag tag, std::span<const std::byte> bytes) override {
    return new_ticket({.request = start_send(Kind::transfer, to, tag, bytes), .peer = to, .sends = true});
  }

  Ticket post_receive(int from, Tag tag, std::span<std::byte> into, bool) override {
    ucp_request_param_t with_request{};  // also where all is there already: it tells the size that came
    with_request.op_attr_mask = UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
    void* request = ucp_tag_recv_nbx(worker_->get(), into.data(), into.size(), tag_of(job_, Kind::transfer, from, tag),
                                     kWholeTag, &with_request);
    return new_ticket({.request = request, .peer = from, .bytes = into.size()});
  }

  Transfer look(Ticket ticket) override {
    worker_->progress();
    Post& post = posts_[static_cast<size_t>(ticket)];
    ucs_status_t status = status_of(post.request);
    if (status == UCS_INPROGRESS && !worker_->lost(post.peer)) return {};
    ucp_tag_recv_info_t came{.length = post.bytes};
    if (status == UCS_INPROGRESS && !post.sends) ucp_request_cancel(worker_->get(), post.request);
    if (status == UCS_OK && !post.sends) status = ucp_tag_recv_request_test(post.request, &came);
    release(post.request);
    post.open = false;
    free_.push_back(ticket);
    if (status == UCS_OK && came.length == post.bytes) return {true, {}};
    const bool is_cut = status == UCS_OK || status == UCS_ERR_MESSAGE_TRUNCATED;
    return {true, {is_cut ? Fault::cut : Fault::lost, post.peer}};
  }

  NodeMemory share(size_t bytes) override { return share_by_messages(*this, bytes); }

  void announce(std::atomic<uint64_t>& flag, uint64_t value, std::span<const int> to) override {
    flag.store(value, std::memory_order_release);
    for (const int rank : to)
      if (Doorbell* bell = bells_.of(rank); bell && bell->ring_wants_waking()) pipes_.at(rank).ring();
  }

  void give_up_after(std::chrono::milliseconds limit) override { patience_.limit = limit; }

  // What was sent before bears another job's tag, and nobody takes it.
  void leave_out(std::span<const int> lost) override {
    go_on();
    for (const int rank : lost) node_of_[static_cast<size_t>(rank)] = -1;
    ++times_;
    forget_transfers();
    job_ += kNextJob;
    barrier();
  }

  void barrier() override { message_barrier(*this); }

  std::unique_ptr<Transport> lane() override {
    auto lane = std::make_unique<UcxTransport>(*this, true);
    workers_of_lanes_.push_back(lane->worker_);
    return lane;
  }

  [[noreturn]] void abort(int exit_code) override {
    door_.abort(exit_code);
    std::_Exit(exit_code);  // the compiler does not know that none returns
  }

 private:
  struct Post {
    void* request = nullptr;
    int peer = 0;
    bool sends = false;
    size_t bytes = 0;  // of a receive
    bool open = true;  // its ticket is not spent
  };
  struct Sending {
    void* request = nullptr;
    int to = 0;
  };

  void wake() override { pipes_.at(rank()).ring(); }

  // What is being received from ranks that remain comes to its end first: it is written to memory of the caller's.
  void forget_transfers() {
    std::vector<Sending> coming;
    const auto forget_receive = [&](void* request, int peer) {
      if (status_of(request) != UCS_INPROGRESS) return release(request);
      ucp_request_cancel(worker_->get(), request);
      if (worker_->lost(peer) || node_of_[static_cast<size_t>(peer)] < 0) return release(request);
      coming.push_back({request, peer});
    };
    for (Post& post : posts_) {
      if (!post.open) continue;
      if (post.sends)
        release(post.request);
      else
        forget_receive(post.request, post.peer);
      post.request = UCS_STATUS_PTR(UCS_ERR_CANCELED);
    }
    for (const Sending& s : sending_) release(s.request);
    sending_.clear();
    const Sending receiving = std::exchange(receiving_, {});
    if (receiving.request) forget_receive(receiving.request, receiving.to);
    const auto all_came = [&] {
      std::erase_if(coming, [&](const Sending& s) {
        if (status_of(s.request) == UCS_INPROGRESS && !worker_->lost(s.to)) return false;
        release(s.request);
        return true;
      });
      return coming.empty();
    };
    if (!wait_until(all_came)) fail(kExitPeerLost, "one more rank was lost");
  }

  bool wait(Arrived arrived, const void* argument) override {
    Bed bed(bells_.mine(), pipes_.at(rank()), *worker_);
    return staged_wait(bed, patience_, [&] {
      worker_->progress();
      return arrived(argument);
    });
  }

  void* start_send(Kind kind, int to, Tag tag, std::span<const std::byte> bytes) {
    return ucp_tag_send_nbx(worker_->to(to), bytes.data(), bytes.size(), tag_of(job_, kind, rank(), tag), &kPlain);
  }

  // Whether all messages have been sent, or cannot be.
  bool sent(Fault& fault) {
    std::erase_if(sending_, [&](const Sending& s) {
      const ucs_status_t status = status_of(s.request);
      if (status == UCS_INPROGRESS && !worker_->lost(s.to)) return false;
      if (status != UCS_OK) fault = {Fault::lost, s.to};
      release(s.request);
      return true;
    });
    return sending_.empty();
  }

  ucp_tag_message_h find(int from, Tag tag, bool take, ucp_tag_recv_info_t* info) {
    ucp_tag_recv_info_t unused{};
    return ucp_tag_probe_nb(worker_->get(), tag_of(job_, Kind::message, from, tag), kWholeTag, take,
                            info ? info : &unused);
  }

  Ticket new_ticket(const Post& post) {
    if (free_.empty()) {
      free_.push_back(static_cast<Ticket>(posts_.size()));
      posts_.emplace_back();
    }
    const Ticket ticket = free_.back();
    free_.pop_back();
    posts_[static_cast<size_t>(ticket)] = post;
    return ticket;
  }

  // Does this on all ranks, and throws what the lowest of those that fail says.
  void with_all(const std::function<void()>& work) {
    std::string failure;
    try {
      work();
    } catch (const Error& error) {
      failure = error.what();
    }
    const std::vector<std::string> failures =
        worker_ ? gather_beside(*worker_, door_, failure) : all_gather(door_, failure);
    for (size_t r = 0; r < failures.size(); ++r)
      if (!failures[r].empty()) fail(kExitUsage, "rank {}: {}", r, failures[r]);
  }

  // Opens the ways to all ranks, so that nothing waits for that later and none is lost without being noticed.
  void meet() {
    const Clock::time_point end = Clock::now() + kMeeting;
    std::vector<Ticket> tickets;
    for (int r = 0; r < size(); ++r) {
      tickets.push_back(post_receive(r, Tag::barrier, {}, false));
      tickets.push_back(post_send(r, Tag::barrier, {}));
    }
    Fault fault;
    int waits_for = 0;
    const auto missing = [&](Ticket ticket) {
      const Transfer transfer = look(ticket);
      if (transfer.done && transfer.fault) fault = transfer.fault;
      if (!transfer.done) waits_for = posts_[static_cast<size_t>(ticket)].peer;
      return !transfer.done;
    };
    while (!fault && Clock::now() < end) {
      std::erase_if(tickets, [&](Ticket ticket) { return !missing(ticket); });
      if (tickets.empty()) break;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (!tickets.empty() || fault)
      fail(kExitUsage,
           "UCX has no way to rank {} ({})\n  look at firewalls between the machines; UCX_NET_DEVICES names interfaces "
           "that reach all of them",
           fault ? fault.rank : waits_for, fault ? "refused" : "no answer");
    flush(kMeeting);
  }

  void flush(std::chrono::seconds limit) {
    const Clock::time_point end = Clock::now() + limit;
    void* request = worker_->start_flush();
    while (status_of(request) == UCS_INPROGRESS && Clock::now() < end) {
      worker_->progress();
      std::this_thread::yield();
    }
    release(request);
  }

  // Until then nobody rings, and nobody may wait but for what comes by UCX.
  void hang_bells(std::span<const int> neighbours) {
    const auto [process, number] = pipes_.at(rank()).id();
    const std::vector<std::string> ids =
        gather_among(*this, neighbours, std::to_string(process) + ' ' + std::to_string(number));
    with_all([&] {
      for (size_t i = 0; i < neighbours.size(); ++i) {
        std::array<long, 2> id{};
        std::istringstream(ids[i]) >> id[0] >> id[1];
        pipes_.try_emplace(neighbours[i], id);  // leaves this rank's own
      }
    });
    bells_.hang(*this);
  }

  Transport& door_;
  bool is_lane_;
  std::vector<int> node_of_;
  std::shared_ptr<UcxWorker> worker_;
  uint64_t job_ = 0;  // in every tag
  std::vector<std::shared_ptr<UcxWorker>> workers_of_lanes_;
  Patience patience_ = kPatienceUntilWoken;
  std::map<int, BellPipe> pipes_;  // of ranks of this machine, this one among them
  Bells bells_;
  int times_ = 0;  // that ranks were left out
  std::vector<Sending> sending_;
  std::vector<std::byte> incoming_;  // the message that receive() waits for
  Sending receiving_;                // and what it has left unfinished
  std::vector<Post> posts_;          // by ticket
  std::vector<Ticket> free_;
};

}  // namespace

std::unique_ptr<Transport> make_ucx_transport(Transport& job) { return std::make_unique<UcxTransport>(job, false); }

}  // namespace kt
