#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/comm/collectives.h"
#include "runtime/comm/doorbell.h"
#include "runtime/comm/transport.h"

namespace kt {
namespace {

// As over MPI, small messages are copied at once and larger ones wait in the sender's memory for their receiver.
// So a program that forgets to receive before it finishes its sends hangs here too.
constexpr size_t kCopiedBytes = 4096;

struct Message {
  std::vector<std::byte> copy;
  std::span<const std::byte> bytes;  // of `copy` (moving a vector keeps its bytes in place), or the sender's
  std::atomic<int>* lent = nullptr;  // if the sender waits until the bytes are taken: counts down then
};

struct Way {
  int from;
  Tag tag;
  int times;  // that the sender had left ranks out
  auto operator<=>(const Way&) const = default;
};

struct Rank {
  std::mutex mutex;  // guards inbox
  std::map<Way, std::deque<Message>> inbox;
  Doorbell bell;
  std::atomic<int> lent{0};                   // its messages that no receiver has taken yet
  std::deque<std::atomic<int>> lent_by_post;  // likewise, of each ticket; grows on the rank's own thread
};

struct Lane {
  explicit Lane(int size) : ranks(static_cast<size_t>(size)) {}
  std::vector<Rank> ranks;
  std::mutex mutex;                               // guards shared
  std::map<int, std::vector<NodeMemory>> shared;  // by number of the call and rank, until all ranks have seen it
};

struct World {
  World(int size, std::vector<int> nodes) : node_of(std::move(nodes)), lanes{Lane(size), Lane(size)} {}
  std::vector<int> node_of;
  Lane lanes[2];
};

std::shared_ptr<void> zeroed(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return {at, [bytes](void* p) { munmap(p, bytes); }};
}

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<World> world, int rank, int lane)
      : world_(std::move(world)), lane_(world_->lanes[lane]), rank_(rank), node_of_(world_->node_of) {}

  const char* name() const override { return "local"; }
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(lane_.ranks.size()); }
  std::vector<int> nodes() const override { return node_of_; }

  void send(int to, Tag tag, std::span<const std::byte> bytes) override { put(to, tag, bytes, me().lent); }

  void finish_sends() override {
    if (!wait_until([&] { return me().lent.load() == 0; })) fail(kExitPeerLost, "messages that nobody takes in time");
  }

  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    Message message;
    if (!wait_until([&] { return take(way(from, tag), message); })) check({Fault::late, from}, "message");
    into.resize(message.bytes.size());
    copy_out(from, message, into);
  }

  bool ready(int from, Tag tag) override {
    const std::lock_guard lock(me().mutex);
    const auto found = me().inbox.find(way(from, tag));
    return found != me().inbox.end() && !found->second.empty();
  }

  Ticket post_send(int to, Tag tag, std::span<const std::byte> bytes) override {
    const Ticket ticket = new_ticket({.sends = true, .peer = to, .tag = tag});
    put(to, tag, bytes, me().lent_by_post[static_cast<size_t>(ticket)]);
    return ticket;
  }

  Ticket post_receive(int from, Tag tag, std::span<std::byte> into, bool) override {
    const Ticket ticket = new_ticket({.peer = from, .tag = tag, .into = into});
    receiving_.push_back(ticket);
    return ticket;
  }

  Transfer look(Ticket ticket) override {
    Post& post = posts_[static_cast<size_t>(ticket)];
    receive_posted();
    if (post.sends) post.done = me().lent_by_post[static_cast<size_t>(ticket)].load() == 0;
    if (!post.done) return {};
    free_.push_back(ticket);
    return {true, post.fault};
  }

  NodeMemory share(size_t bytes) override {
    const int call = shares_++;
    const std::shared_ptr<void> own = zeroed(bytes);
    std::vector<NodeMemory>* all = nullptr;
    {
      const std::lock_guard lock(lane_.mutex);
      all = &lane_.shared[call];
      all->resize(static_cast<size_t>(size()));
      std::vector<std::span<std::byte>> mine(static_cast<size_t>(size()));
      mine[static_cast<size_t>(rank_)] = {static_cast<std::byte*>(own.get()), bytes};
      (*all)[static_cast<size_t>(rank_)] = NodeMemory(std::move(mine), own);
    }
    barrier();
    NodeMemory memory;
    {
      const std::lock_guard lock(lane_.mutex);
      std::vector<std::span<std::byte>> parts;
      for (int r = 0; r < size(); ++r)
        parts.push_back(node_of_[static_cast<size_t>(r)] == node() ? (*all)[static_cast<size_t>(r)].of(r)
                                                                   : std::span<std::byte>());
      memory = NodeMemory(std::move(parts), std::make_shared<std::vector<NodeMemory>>(*all));
    }
    barrier();
    const std::lock_guard lock(lane_.mutex);
    lane_.shared.erase(call);
    return memory;
  }

  void announce(std::atomic<uint64_t>& flag, uint64_t value, std::span<const int> to) override {
    flag.store(value, std::memory_order_release);
    for (const int rank : to)
      if (rank != rank_) lane_.ranks[static_cast<size_t>(rank)].bell.ring();
  }

  void give_up_after(std::chrono::milliseconds limit) override { patience_.limit = limit; }

  // Nobody takes the messages of before; they stay with who was to.
  void leave_out(std::span<const int> lost) override {
    go_on();
    for (const int rank : lost) node_of_[static_cast<size_t>(rank)] = -1;
    ++times_;
    barrier();
    receiving_.clear();
    for (Post& post : posts_)
      if (!post.done) post = {.done = true, .peer = post.peer, .fault = {Fault::lost, post.peer}};
    for (std::atomic<int>& lent : me().lent_by_post) lent = 0;
    me().lent = 0;
  }

  void barrier() override { message_barrier(*this); }

  std::unique_ptr<Transport> lane() override { return std::make_unique<LocalTransport>(world_, rank_, 1); }

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  struct Post {
    bool sends = false, done = false;
    int peer = 0;
    Tag tag = Tag::control;
    std::span<std::byte> into = {};
    Fault fault = {};
  };

  Way way(int from, Tag tag) const { return {from, tag, times_}; }
  Rank& me() { return lane_.ranks[static_cast<size_t>(rank_)]; }

  bool wait(Arrived arrived, const void* argument) override {
    return staged_wait(me().bell, patience_, [&] { return arrived(argument); });
  }

  void wake() override { me().bell.ring(); }

  Ticket new_ticket(const Post& post) {
    if (free_.empty()) {
      posts_.push_back(post);
      me().lent_by_post.emplace_back(0);
      return static_cast<Ticket>(posts_.size()) - 1;
    }
    const Ticket ticket = free_.back();
    free_.pop_back();
    posts_[static_cast<size_t>(ticket)] = post;
    return ticket;
  }

  void put(int to, Tag tag, std::span<const std::byte> bytes, std::atomic<int>& lent) {
    Message message{.copy = {}, .bytes = bytes};
    if (bytes.size() > kCopiedBytes) {
      lent.fetch_add(1);
      message.lent = &lent;
    } else {
      message.copy.assign(bytes.begin(), bytes.end());
      message.bytes = message.copy;
    }
    Rank& receiver = lane_.ranks.at(static_cast<size_t>(to));
    {
      const std::lock_guard lock(receiver.mutex);
      receiver.inbox[way(rank_, tag)].push_back(std::move(message));
    }
    receiver.bell.ring();
  }

  bool take(const Way& way, Message& message) {
    const std::lock_guard lock(me().mutex);
    const auto found = me().inbox.find(way);
    if (found == me().inbox.end() || found->second.empty()) return false;
    message = std::move(found->second.front());
    found->second.pop_front();
    return true;
  }

  // `into` has the message's size.
  void copy_out(int from, const Message& message, std::span<std::byte> into) {
    if (!into.empty()) std::memcpy(into.data(), message.bytes.data(), into.size());
    if (!message.lent) return;
    message.lent->fetch_sub(1);
    lane_.ranks[static_cast<size_t>(from)].bell.ring();
  }

  // Of each way in the order of posting: what comes meanwhile must not overtake.
  void receive_posted() {
    Message message;
    size_t kept = 0;
    for (const Ticket ticket : receiving_) {
      Post& post = posts_[static_cast<size_t>(ticket)];
      const auto before = [&](Ticket other) {
        const Post& o = posts_[static_cast<size_t>(other)];
        return o.peer == post.peer && o.tag == post.tag;
      };
      const auto waiting = receiving_.begin() + static_cast<std::ptrdiff_t>(kept);
      if (std::any_of(receiving_.begin(), waiting, before) || !take(way(post.peer, post.tag), message)) {
        receiving_[kept++] = ticket;
        continue;
      }
      const bool whole = message.bytes.size() == post.into.size();
      copy_out(post.peer, message, whole ? post.into : std::span<std::byte>());
      post.fault = whole ? Fault() : Fault{Fault::cut, post.peer};
      post.done = true;
    }
    receiving_.resize(kept);
  }

  std::shared_ptr<World> world_;  // lives until the last thread has left
  Lane& lane_;
  int rank_, shares_ = 0, times_ = 0;
  std::vector<int> node_of_;
  Patience patience_;
  std::deque<Post> posts_;  // by ticket
  std::vector<Ticket> free_, receiving_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> make_local_transports(int size, std::vector<int> nodes) {
  if (size < 1) fail(kExitUsage, "{} ranks were asked for; at least 1 is needed", size);
  if (nodes.empty()) nodes.assign(static_cast<size_t>(size), 0);
  const auto world = std::make_shared<World>(size, std::move(nodes));
  std::vector<std::unique_ptr<Transport>> transports;
  for (int r = 0; r < size; ++r) transports.push_back(std::make_unique<LocalTransport>(world, r, 0));
  return transports;
}

}  // namespace kt
