#include "tests/comm/conformance.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include "runtime/base/error.h"

namespace kt::testing {
namespace {

using Bytes = std::vector<std::byte>;

// Content that depends on every argument, so that a swapped, cut or repeated message shows.
Bytes content(int from, int to, int number, size_t size) {
  Bytes bytes(size);
  uint32_t state = static_cast<uint32_t>(from * 1'000'003 + to * 10'007 + number) * 2654435761u + 1u;
  for (std::byte& b : bytes) {
    state = state * 1664525u + 1013904223u;
    b = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

void expect_same(const Bytes& got, const Bytes& expected, int from, int number) {
  ASSERT_EQ(got.size(), expected.size()) << "message " << number << " from rank " << from;
  if (!got.empty()) {
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size()), 0) << "message " << number << " from rank " << from;
  }
}

void every_pair_in_order(Transport& t) {
  const size_t sizes[] = {0, 1, 64, 4096, 4097, 65'536, 100'001, 0, 3};
  std::vector<Bytes> sent;
  for (int to = 0; to < t.size(); ++to) {
    for (int i = 0; i < static_cast<int>(std::size(sizes)); ++i) sent.push_back(content(t.rank(), to, i, sizes[i]));
  }
  for (int to = 0; to < t.size(); ++to) {
    for (size_t i = 0; i < std::size(sizes); ++i)
      t.send(to, Tag::rows, sent[static_cast<size_t>(to) * std::size(sizes) + i]);
  }

  Bytes got;
  for (int from = t.size() - 1; from >= 0; --from) {
    for (int i = 0; i < static_cast<int>(std::size(sizes)); ++i) {
      t.receive(from, Tag::rows, got);
      expect_same(got, content(from, t.rank(), i, sizes[i]), from, i);
    }
  }
  t.finish_sends();
}

void tags_do_not_mix(Transport& t) {
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  const Tag tags[] = {Tag::control, Tag::results, Tag::rows, Tag::logits};
  std::vector<Bytes> sent;
  for (int i = 0; i < 40; ++i) sent.push_back(content(t.rank(), right, i, static_cast<size_t>(i * 211)));
  for (int i = 0; i < 40; ++i) t.send(right, tags[i % 4], sent[static_cast<size_t>(i)]);

  Bytes got;
  for (int tag = 3; tag >= 0; --tag) {
    for (int i = tag; i < 40; i += 4) {
      t.receive(left, tags[tag], got);
      expect_same(got, content(left, t.rank(), i, static_cast<size_t>(i * 211)), left, i);
    }
  }
  t.finish_sends();
}

void big_messages_arrive_whole(Transport& t) {
  constexpr size_t kBig = 40u << 20;
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  const Bytes sent = content(t.rank(), right, 7, kBig);
  t.send(right, Tag::rows, sent);
  Bytes got;
  t.receive(left, Tag::rows, got);
  expect_same(got, content(left, t.rank(), 7, kBig), left, 7);
  t.finish_sends();
}

void many_send_to_one(Transport& t) {
  constexpr int kMessages = 300;
  std::vector<Bytes> sent;
  for (int i = 0; i < kMessages; ++i) sent.push_back(content(t.rank(), 0, i, static_cast<size_t>(i % 7 * 1000)));
  if (t.rank() != 0) {
    for (const Bytes& bytes : sent) t.send(0, Tag::results, bytes);
  } else {
    Bytes got;
    for (int i = 0; i < kMessages; ++i) {
      for (int from = 1; from < t.size(); ++from) {
        t.receive(from, Tag::results, got);
        expect_same(got, content(from, 0, i, static_cast<size_t>(i % 7 * 1000)), from, i);
      }
    }
  }
  t.finish_sends();
}

void ready_tells_what_waits(Transport& t) {
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  EXPECT_FALSE(t.ready(left, Tag::control));
  t.barrier();
  const Bytes sent = content(t.rank(), right, 3, 100);
  t.send(right, Tag::control, sent);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (!t.ready(left, Tag::control) && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(t.ready(left, Tag::control));
  EXPECT_FALSE(t.ready(left, Tag::results));

  Bytes got;
  t.receive(left, Tag::control, got);
  expect_same(got, content(left, t.rank(), 3, 100), left, 3);
  EXPECT_FALSE(t.ready(left, Tag::control));
  t.finish_sends();
}

// A sender that waits for a late receiver, and a receiver that waits for a late sender, both past falling asleep.
void late_partners_are_waited_for(Transport& t) {
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  const Bytes sent = content(t.rank(), right, 11, 1u << 20);
  Bytes got;
  for (const int late : {0, t.size() - 1}) {
    if (t.rank() == late) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    t.send(right, Tag::rows, sent);
    if (t.rank() == right) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    t.receive(left, Tag::rows, got);
    expect_same(got, content(left, t.rank(), 11, 1u << 20), left, 11);
    t.finish_sends();
  }
}

void all_gather_hears_everybody(Transport& t) {
  const auto saying = [](int rank) {
    return std::string(static_cast<size_t>(rank * 3000), static_cast<char>('a' + rank));
  };
  const std::vector<std::string> all = all_gather(t, saying(t.rank()));
  ASSERT_EQ(all.size(), static_cast<size_t>(t.size()));
  for (int r = 0; r < t.size(); ++r) EXPECT_EQ(all[static_cast<size_t>(r)], saying(r));
}

void nobody_leaves_a_barrier_early(Transport& t) {
  using Clock = std::chrono::steady_clock;
  t.barrier();
  const Clock::time_point start = Clock::now();
  if (t.rank() == t.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  t.barrier();
  // Ranks leave the first barrier at nearly, not exactly, the same time.
  EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(50));
}

// Receives are posted before and after the sends, and looked for in another order than that of posting.
void posted_transfers_meet_in_order(Transport& t) {
  const size_t sizes[] = {0, 8, 4096, 100'001, 3'000'000, 5};
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  for (const bool sends_first : {false, true}) {
    std::vector<Bytes> sent, got;
    std::vector<Ticket> sends, receives;
    for (int i = 0; i < 6; ++i) {
      sent.push_back(content(t.rank(), right, i, sizes[i]));
      got.emplace_back(sizes[i]);
    }
    const auto post_sends = [&] {
      for (const Bytes& bytes : sent) sends.push_back(t.post_send(right, Tag::results, bytes));
    };
    if (sends_first) post_sends();
    for (Bytes& bytes : got) receives.push_back(t.post_receive(left, Tag::results, bytes));
    if (!sends_first) post_sends();
    for (int i = 5; i >= 0; --i) {
      EXPECT_FALSE(finish(t, receives[static_cast<size_t>(i)], left));
      expect_same(got[static_cast<size_t>(i)], content(left, t.rank(), i, sizes[i]), left, i);
    }
    for (const Ticket ticket : sends) EXPECT_FALSE(finish(t, ticket, right));
  }
}

void another_size_is_a_fault(Transport& t) {
  if (t.size() == 1) return;  // MPI does not notice it of a rank's transfers to itself
  const int right = (t.rank() + 1) % t.size(), left = (t.rank() + t.size() - 1) % t.size();
  const Bytes sent = content(t.rank(), right, 0, 100);
  for (const size_t expected : {size_t{99}, size_t{101}}) {
    Bytes got(expected);
    const Ticket receive = t.post_receive(left, Tag::results, got), send = t.post_send(right, Tag::results, sent);
    const Fault fault = finish(t, receive, left);
    EXPECT_EQ(fault.kind, Fault::cut);
    EXPECT_EQ(fault.rank, left);
    EXPECT_FALSE(finish(t, send, right));
  }
  t.barrier();
}

void shared_memory_is_seen_by_one_machine(Transport& t) {
  const size_t mine = t.rank() % 3 == 2 ? 0 : 64 + static_cast<size_t>(t.rank()) * 5000;
  const NodeMemory memory = t.share(mine);
  for (const std::byte b : memory.of(t.rank())) EXPECT_EQ(b, std::byte{0});
  ASSERT_EQ(memory.of(t.rank()).size(), mine);
  std::vector<int> everybody;
  for (int r = 0; r < t.size(); ++r) everybody.push_back(r);
  const auto flag = [&](int rank) { return reinterpret_cast<std::atomic<uint64_t>*>(memory.of(rank).data()); };
  t.barrier();
  if (mine) {
    memory.of(t.rank()).back() = static_cast<std::byte>(t.rank() + 1);
    t.announce(*flag(t.rank()), 7, everybody);
  }
  for (int r = 0; r < t.size(); ++r) {
    if (t.nodes()[static_cast<size_t>(r)] != t.node()) {
      EXPECT_TRUE(memory.of(r).empty());
    } else if (!memory.of(r).empty()) {
      t.wait_until([&] { return flag(r)->load(std::memory_order_acquire) == 7; });
      EXPECT_EQ(memory.of(r).back(), static_cast<std::byte>(r + 1));
    }
  }
  t.barrier();
}

void waits_can_be_given_up(Transport& t) {
  t.give_up_after(std::chrono::milliseconds(30));
  EXPECT_FALSE(t.wait_until([] { return false; }));
  t.give_up_after(std::chrono::milliseconds(0));
  t.barrier();
}

// Two threads of each rank talk at a time, of other things.
void lanes_are_apart(Transport& t) {
  const std::unique_ptr<Transport> lane = t.lane();
  EXPECT_EQ(lane->rank(), t.rank());
  EXPECT_EQ(lane->nodes(), t.nodes());
  std::thread beside([&] {
    for (int i = 0; i < 3; ++i) every_pair_in_order(*lane);
    many_send_to_one(*lane);
  });
  big_messages_arrive_whole(t);
  every_pair_in_order(t);
  many_send_to_one(t);
  beside.join();
}

// The last rank is left out with transfers and messages on their way between all; the others go on by the same tags.
void others_go_on_without_one(Transport& t) {
  const std::unique_ptr<Transport> way = t.lane();
  const int gone = t.size() - 1;
  if (gone == 0) return;
  const Bytes stale = content(0, 0, 1, 3u << 20);
  std::vector<Bytes> rooms(static_cast<size_t>(t.size()), Bytes(100'000));
  std::vector<Ticket> tickets;
  for (int r = 0; r < t.size(); ++r) {
    way->send(r, Tag::control, content(0, 0, 2, 9));
    tickets.push_back(way->post_send(r, Tag::rows, stale));
    tickets.push_back(way->post_receive(r, Tag::results, rooms[static_cast<size_t>(r)], true));
  }
  way->barrier();
  std::thread waiting([&] { EXPECT_FALSE(way->wait_until([] { return false; })); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  way->interrupt();
  waiting.join();
  if (t.rank() == gone) return;

  way->leave_out(std::span(&gone, 1));

  EXPECT_EQ(way->nodes()[static_cast<size_t>(gone)], -1);
  EXPECT_EQ(static_cast<int>(present(*way).size()), gone);
  for (const Ticket ticket : tickets) EXPECT_TRUE(way->look(ticket).done);
  tickets.clear();
  std::vector<Bytes> sent;
  for (int r = 0; r < gone; ++r) sent.push_back(content(t.rank(), r, 5, 100'000));
  for (int r = 0; r < gone; ++r) {
    way->send(r, Tag::control, sent[static_cast<size_t>(r)]);
    tickets.push_back(way->post_receive(r, Tag::results, rooms[static_cast<size_t>(r)]));
    tickets.push_back(way->post_send(r, Tag::results, sent[static_cast<size_t>(r)]));
  }
  Bytes got;
  for (int r = 0; r < gone; ++r) {
    way->receive(r, Tag::control, got);
    expect_same(got, content(r, t.rank(), 5, 100'000), r, 5);
  }
  for (const Ticket ticket : tickets) EXPECT_FALSE(finish(*way, ticket, 0));
  for (int r = 0; r < gone; ++r) expect_same(rooms[static_cast<size_t>(r)], content(r, t.rank(), 5, 100'000), r, 5);
  EXPECT_EQ(all_gather(*way, "x")[static_cast<size_t>(gone)], "");
}

}  // namespace

void check_transport(Transport& t) {
  ASSERT_EQ(t.nodes().size(), static_cast<size_t>(t.size()));
  EXPECT_EQ(t.nodes()[static_cast<size_t>(t.rank())], t.node());
  EXPECT_EQ(t.nodes()[0], 0);
  every_pair_in_order(t);
  tags_do_not_mix(t);
  big_messages_arrive_whole(t);
  many_send_to_one(t);
  t.barrier();
  ready_tells_what_waits(t);
  t.barrier();
  late_partners_are_waited_for(t);
  t.barrier();
  all_gather_hears_everybody(t);
  nobody_leaves_a_barrier_early(t);
  posted_transfers_meet_in_order(t);
  another_size_is_a_fault(t);
  shared_memory_is_seen_by_one_machine(t);
  waits_can_be_given_up(t);
  lanes_are_apart(t);
  others_go_on_without_one(t);
}

}  // namespace kt::testing
