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
  bool lent = false;                 // the sender waits until the bytes are taken
};

struct Rank {
  std::mutex mutex;  // guards inbox
  std::map<std::pair<int, Tag>, std::deque<Message>> inbox;
  Doorbell bell;
  std::atomic<int> lent{0};  // its messages that no receiver has taken yet
};

struct World {
  explicit World(int size) : lanes{std::vector<Rank>(static_cast<size_t>(size)), std::vector<Rank>(lanes[0].size())} {}
  std::vector<Rank> lanes[2];
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<World> world, int rank, int lane)
      : world_(std::move(world)), ranks_(world_->lanes[lane]), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(ranks_.size()); }
  int node() const override { return 0; }
  std::vector<int> nodes() const override { return std::vector<int>(ranks_.size(), 0); }

  void send(int to, Tag tag, std::span<const std::byte> bytes) override {
    Message message{.copy = {}, .bytes = bytes, .lent = bytes.size() > kCopiedBytes};
    if (message.lent) {
      me().lent.fetch_add(1);
    } else {
      message.copy.assign(bytes.begin(), bytes.end());
      message.bytes = message.copy;
    }
    Rank& receiver = ranks_.at(static_cast<size_t>(to));
    {
      const std::lock_guard lock(receiver.mutex);
      receiver.inbox[{rank_, tag}].push_back(std::move(message));
    }
    receiver.bell.ring();
  }

  void finish_sends() override {
    staged_wait(me().bell, Patience{}, [&] { return me().lent.load() == 0; });
  }

  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    Rank& sender = ranks_.at(static_cast<size_t>(from));
    Message message;
    staged_wait(me().bell, Patience{}, [&] { return take(from, tag, message); });
    into.resize(message.bytes.size());
    if (!message.bytes.empty()) std::memcpy(into.data(), message.bytes.data(), message.bytes.size());
    if (message.lent) {
      sender.lent.fetch_sub(1);
      sender.bell.ring();
    }
  }

  bool ready(int from, Tag tag) override {
    const std::lock_guard lock(me().mutex);
    const auto found = me().inbox.find({from, tag});
    return found != me().inbox.end() && !found->second.empty();
  }

  void barrier() override { message_barrier(*this); }

  std::unique_ptr<Transport> lane() override { return std::make_unique<LocalTransport>(world_, rank_, 1); }

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    std::_Exit(exit_code);
  }

 private:
  Rank& me() { return ranks_[static_cast<size_t>(rank_)]; }

  bool take(int from, Tag tag, Message& message) {
    const std::lock_guard lock(me().mutex);
    const auto found = me().inbox.find({from, tag});
    if (found == me().inbox.end() || found->second.empty()) return false;
    message = std::move(found->second.front());
    found->second.pop_front();
    return true;
  }

  std::shared_ptr<World> world_;  // lives until the last thread has left
  std::vector<Rank>& ranks_;      // this lane's
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Transport>> make_local_transports(int size) {
  if (size < 1) fail(kExitUsage, "{} ranks were asked for; at least 1 is needed", size);
  const auto world = std::make_shared<World>(size);
  std::vector<std::unique_ptr<Transport>> transports;
  for (int r = 0; r < size; ++r) transports.push_back(std::make_unique<LocalTransport>(world, r, 0));
  return transports;
}

}  // namespace kt
