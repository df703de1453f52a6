#include "runtime/comm/faulty.h"

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <random>
#include <thread>

namespace kt {

class FaultyTransport final : public Transport {
 public:
  FaultyTransport(Transport& inner, const FaultPlan& plan)
      : inner_(inner), plan_(plan), draw_(plan.seed * 1'000'003 + static_cast<uint64_t>(inner_.rank())) {}
  ~FaultyTransport() override { release(); }

  const char* name() const override { return inner_.name(); }
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  std::vector<int> nodes() const override { return inner_.nodes(); }
  void send(int to, Tag tag, std::span<const std::byte> bytes) override { inner_.send(to, tag, bytes); }
  void finish_sends() override {
    release();
    inner_.finish_sends();
  }
  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    release();
    inner_.receive(from, tag, into);
  }
  bool ready(int from, Tag tag) override { return inner_.ready(from, tag); }

  Ticket post_send(int to, Tag tag, std::span<const std::byte> bytes) override {
    const Ticket ticket = static_cast<Ticket>(sends_.size());
    sends_.push_back({});
    const Draw drawn = draw();
    if (drawn.cut) bytes = bytes.first(bytes.size() / 2);
    if (drawn.drop)
      sends_.back().dropped = true;
    else
      perform_or_hold({.way = {to, static_cast<int>(tag)}, .tag = tag, .bytes = bytes, .ticket = ticket}, drawn.hold);
    return 2 * ticket;
  }

  Ticket post_receive(int from, Tag tag, std::span<std::byte> into, bool idle) override {
    return 2 * inner_.post_receive(from, tag, into, idle) + 1;
  }

  Transfer look(Ticket ticket) override {
    if (ticket % 2) return inner_.look(ticket / 2);
    const Send& send = sends_[static_cast<size_t>(ticket / 2)];
    if (send.dropped) return {true, {}};
    return send.inner ? inner_.look(*send.inner) : Transfer{};
  }

  NodeMemory share(size_t bytes) override { return inner_.share(bytes); }

  void announce(std::atomic<uint64_t>& flag, uint64_t value, std::span<const int> to) override {
    const Draw drawn = draw();
    if (drawn.drop) return;
    perform_or_hold({.way = {-1, 0}, .flag = &flag, .value = value, .to = std::vector<int>(to.begin(), to.end())},
                    drawn.hold);
  }

  void give_up_after(std::chrono::milliseconds limit) override { inner_.give_up_after(limit); }
  void leave_out(std::span<const int> lost) override {
    go_on();
    held_.clear();
    for (Send& send : sends_) send.dropped |= !send.inner;
    inner_.leave_out(lost);
  }
  void barrier() override {
    release();
    inner_.barrier();
  }
  std::unique_ptr<Transport> lane() override { return inner_.lane(); }
  [[noreturn]] void abort(int exit_code) override {
    inner_.abort(exit_code);
    std::_Exit(exit_code);  // the compiler does not know that no inner one returns
  }

 private:
  struct Send {
    bool dropped = false;
    std::optional<Ticket> inner;  // none: held back
  };
  struct Operation {
    std::pair<int, int> way;  // of transfers: receiver and tag
    Tag tag = Tag::control;
    std::span<const std::byte> bytes = {};
    Ticket ticket = -1;
    std::atomic<uint64_t>* flag = nullptr;
    uint64_t value = 0;
    std::vector<int> to = {};
    bool follows(const Operation& other) const { return way == other.way && flag == other.flag; }
  };
  struct Draw {
    bool hold = false, cut = false, drop = false;
  };

  bool wait(Arrived arrived, const void* argument) override {
    const auto look = [&] {
      release();
      return arrived(argument);
    };
    return inner_.wait_until(look);
  }

  void wake() override { inner_.interrupt(); }

  Draw draw() {
    if (seen_++ < plan_.spared) return {};
    std::uniform_real_distribution<double> uniform;
    const auto happens = [&](double probability) { return uniform(draw_) < probability; };
    if (happens(plan_.delay)) std::this_thread::sleep_for(std::chrono::microseconds(draw_() % 2000));
    return {happens(plan_.reorder), happens(plan_.cut), happens(plan_.drop)};
  }

  void perform_or_hold(Operation operation, bool hold) {
    const bool behind = std::any_of(held_.begin(), held_.end(), [&](auto& o) { return operation.follows(o); });
    if (hold || behind)
      held_.push_back(std::move(operation));
    else
      perform(operation);
  }

  void perform(const Operation& o) {
    if (o.flag)
      inner_.announce(*o.flag, o.value, o.to);
    else
      sends_[static_cast<size_t>(o.ticket)].inner = inner_.post_send(o.way.first, o.tag, o.bytes);
  }

  // In any order that keeps that of each way.
  void release() {
    while (!held_.empty()) {
      const Operation& any = held_[draw_() % held_.size()];
      const auto first = std::find_if(held_.begin(), held_.end(), [&](auto& o) { return any.follows(o); });
      perform(*first);
      held_.erase(first);
    }
  }

  Transport& inner_;
  FaultPlan plan_;
  std::mt19937_64 draw_;
  int seen_ = 0;
  std::vector<Send> sends_;  // by ticket
  std::vector<Operation> held_;
};

std::unique_ptr<Transport> make_faulty(Transport& inner, const FaultPlan& plan) {
  return std::make_unique<FaultyTransport>(inner, plan);
}

}  // namespace kt
