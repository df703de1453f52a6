#include "runtime/comm/lifeline.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <sstream>

#include "runtime/comm/rendezvous.h"

namespace kt {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

bool soon(const std::function<bool()>& happens, std::chrono::milliseconds limit = 20s) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!happens()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(5ms);
  }
  return true;
}

struct Losses {
  std::mutex mutex;
  std::vector<Loss> all;

  Lifeline::OnLoss note() {
    return [this](const Loss& loss) {
      const std::lock_guard lock(mutex);
      all.push_back(loss);
    };
  }
  size_t count() {
    const std::lock_guard lock(mutex);
    return all.size();
  }
};

// Rank 1 of two: its bare socket, so that it can do what a rank of ours never does.
Descriptor bare_rank(Transport& transport) {
  all_gather(transport, "n2");  // its host
  return std::move(meet_at_rank_0(transport)[0]);
}

// A lifeline on rank 0, and a bare rank 1.
struct Pair {
  std::vector<std::unique_ptr<Transport>> transports = make_local_transports(2);
  Losses losses;
  std::optional<Descriptor> other;
  std::unique_ptr<Lifeline> lifeline;

  explicit Pair(LifelineOptions options = {}) {
    std::thread there([&] { other = bare_rank(*transports[1]); });
    lifeline = std::make_unique<Lifeline>(*transports[0], losses.note(), options);
    there.join();
  }
  ~Pair() { other.reset(); }
  void say(int64_t number) { EXPECT_EQ(send(other->fd(), &number, sizeof number, 0), 8); }
};

TEST(Lifeline, NamesARankThatIsGoneWithoutAWord) {
  Pair pair;
  pair.lifeline->set_roles({"scheduler+trunk", "expert"});
  EXPECT_FALSE(pair.lifeline->lost());

  pair.other.reset();

  ASSERT_TRUE(soon([&] { return pair.losses.count() == 1; }));
  EXPECT_EQ(pair.losses.all[0].rank, 1);
  EXPECT_FALSE(pair.losses.all[0].exit_code);
  EXPECT_TRUE(pair.lifeline->lost());
  EXPECT_EQ(pair.lifeline->name(1), "rank 1 (expert, host n2)");
}

TEST(Lifeline, PassesOnWithWhichExitCodeARankEndsTheJob) {
  Pair pair;

  pair.say(-1 - 64);
  pair.other.reset();

  ASSERT_TRUE(soon([&] { return pair.losses.count() == 1; }));
  EXPECT_EQ(pair.losses.all[0].exit_code, 64);
}

TEST(Lifeline, ALossThatTheOthersGoOnWithoutIsNotTheEnd) {
  Pair pair;
  std::atomic<int> asked = -1;
  pair.lifeline->set_go_on([&](int rank) {
    asked = rank;
    return std::vector<int>{rank};
  });

  pair.other.reset();

  ASSERT_TRUE(soon([&] { return asked == 1; }));
  EXPECT_FALSE(pair.lifeline->lost());
  std::this_thread::sleep_for(700ms);
  EXPECT_THAT(pair.lifeline->silent(0.2), IsEmpty()) << "nobody waits for it any more";
  EXPECT_EQ(pair.losses.count(), 0u);
}

TEST(Lifeline, ALossThatTheOthersCannotGoOnWithoutIsTheEnd) {
  Pair pair;
  pair.lifeline->set_go_on([](int) { return std::vector<int>(); });

  pair.other.reset();

  ASSERT_TRUE(soon([&] { return pair.losses.count() == 1; }));
  EXPECT_TRUE(pair.lifeline->lost());
}

TEST(Lifeline, WhoEndsTheJobWithAnExitCodeIsNotLost) {
  Pair pair;
  pair.lifeline->set_go_on([](int rank) { return std::vector<int>{rank}; });

  pair.say(-1 - 64);

  ASSERT_TRUE(soon([&] { return pair.losses.count() == 1; }));
}

TEST(Lifeline, RankZeroTellsTheOthersWhoIsLeftOut) {
  auto transports = make_local_transports(3);
  std::atomic<int> without[3] = {-1, -1, -1};
  Losses losses;
  std::vector<std::unique_ptr<Lifeline>> lines(2);
  std::optional<Descriptor> last;
  std::vector<std::thread> ranks;
  for (const int r : {0, 1})
    ranks.emplace_back([&, r] {
      lines[r] = std::make_unique<Lifeline>(*transports[r], losses.note(), LifelineOptions());
      lines[r]->set_go_on([&without, r](int rank) {
        without[r] = rank;
        return std::vector<int>{rank};
      });
    });
  ranks.emplace_back([&] { last = bare_rank(*transports[2]); });
  for (std::thread& rank : ranks) rank.join();

  last.reset();

  EXPECT_TRUE(soon([&] { return without[0] == 2 && without[1] == 2; }));
  EXPECT_EQ(losses.count(), 0u);
  std::thread leaves([&] { lines[1].reset(); });
  lines[0].reset();
  leaves.join();
}

TEST(Lifeline, ARankThatLeavesAtTheEndIsNotLost) {
  Pair pair;

  pair.say(-1);
  pair.other.reset();

  EXPECT_FALSE(soon([&] { return pair.losses.count() > 0; }, 600ms));
}

TEST(Lifeline, NamesRanksThatSayNothing) {
  Pair pair;
  EXPECT_THAT(pair.lifeline->silent(100.0), IsEmpty());

  EXPECT_TRUE(soon([&] { return !pair.lifeline->silent(0.5).empty(); }));
  pair.say(3);

  EXPECT_TRUE(soon([&] { return pair.lifeline->silent(0.5).empty(); }));
}

TEST(Lifeline, ARankThatIsSilentForTooLongIsLost) {
  Pair pair({.silence_s = 800ms});
  for (int i = 0; i < 6; ++i) {
    std::this_thread::sleep_for(200ms);
    pair.say(i);
  }
  EXPECT_EQ(pair.losses.count(), 0u) << "it speaks";

  ASSERT_TRUE(soon([&] { return pair.losses.count() == 1; }));
  EXPECT_EQ(pair.losses.all[0].rank, 1);
  EXPECT_FALSE(pair.losses.all[0].exit_code);
}

TEST(Lifeline, PutsMessagesTogetherFromTheirPieces) {
  Pair pair;
  const int64_t before = pair.lifeline->pulse(), number = 0x0102030405060708;

  send(pair.other->fd(), &number, 3, 0);
  std::this_thread::sleep_for(50ms);
  send(pair.other->fd(), reinterpret_cast<const char*>(&number) + 3, 5, 0);

  EXPECT_TRUE(soon([&] { return pair.lifeline->pulse() == before + number; }));
}

// Every rank in a thread, with what it does between the start and the end of its lifeline.
void run_ranks(int count, const std::function<void(int rank, Lifeline&)>& life, Losses& losses) {
  auto transports = make_local_transports(count);
  std::vector<std::jthread> threads;
  for (int r = 0; r < count; ++r)
    threads.emplace_back([&, r] {
      Lifeline lifeline(*transports[r], losses.note());
      life(r, lifeline);
      transports[r]->barrier();
    });
}

TEST(Lifeline, LeavingTogetherIsNoLoss) {
  for (const int ranks : {1, 2, 3, 5, 9}) {
    Losses losses;
    run_ranks(
        ranks, [](int, Lifeline&) {}, losses);
    EXPECT_EQ(losses.count(), 0u) << ranks << " ranks";
  }
}

TEST(Lifeline, RankZeroSeesAnyRanksWork) {
  std::atomic<int64_t> work_of[3] = {};
  std::atomic<bool> done = false;
  Losses losses;
  run_ranks(
      3,
      [&](int rank, Lifeline& lifeline) {
        lifeline.set_pulse([&work = work_of[rank]] { return work.load(); });
        if (rank == 0) {
          for (std::atomic<int64_t>& work : work_of) {
            const int64_t before = lifeline.pulse();
            ++work;
            EXPECT_TRUE(soon([&] { return lifeline.pulse() == before + 1; }));
          }
          const int64_t now = lifeline.pulse();
          std::this_thread::sleep_for(600ms);
          EXPECT_EQ(lifeline.pulse(), now) << "nobody works";
          done = true;
        }
        while (!done) std::this_thread::sleep_for(5ms);
      },
      losses);
}

// A rank asks for its pulse each time that it tells it. Whoever answered each message would tell it for ever.
TEST(Lifeline, TellsItsPulseByTheClockAndNotInAnswer) {
  std::atomic<int> told = 0;
  std::atomic<bool> done = false;
  Losses losses;
  run_ranks(
      3,
      [&](int rank, Lifeline& lifeline) {
        lifeline.set_pulse([&] { return ++told; });
        if (rank == 0) {
          std::this_thread::sleep_for(1s);
          done = true;
        }
        while (!done) std::this_thread::sleep_for(5ms);
        lifeline.set_pulse(nullptr);
      },
      losses);
  EXPECT_GE(told, 3);
  EXPECT_LE(told, 3 * 10) << "of three ranks in one second, four times a second each";
}

TEST(Lifeline, OtherRanksHearThatRankZeroEndsTheJob) {
  Losses losses;
  run_ranks(
      3,
      [&](int rank, Lifeline& lifeline) {
        if (rank == 0) lifeline.end_job(71);
        EXPECT_TRUE(rank == 0 || soon([&] { return lifeline.lost(); }));
      },
      losses);

  ASSERT_EQ(losses.count(), 2u);
  for (const Loss& loss : losses.all) {
    EXPECT_EQ(loss.rank, 0);
    EXPECT_EQ(loss.exit_code, 71);
  }
}

int call(int port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to), 0);
  return fd;
}

TEST(Rendezvous, TurnsStrangersAwayAndWaitsForTheRank) {
  auto transports = make_local_transports(2);
  std::thread there([&] {
    const std::string invitation = all_gather(*transports[1], "").front();
    ASSERT_GT(invitation.size(), 32u);
    const int port = std::stoi(invitation.substr(32));
    char answer[16] = {};
    for (const bool wrong_rank : {false, true}) {
      const int stranger = call(port);
      std::string greeting(wrong_rank ? invitation.substr(0, 16) : std::string(16, 'x'));
      greeting += std::string(wrong_rank ? "\7\0\0\0" : "\1\0\0\0", 4);
      EXPECT_EQ(send(stranger, greeting.data(), greeting.size(), 0), 20);
      EXPECT_LE(recv(stranger, answer, sizeof answer, 0), 0) << "is not answered";
      close(stranger);
    }
    const int rank = call(port);
    const std::string greeting = invitation.substr(0, 16) + std::string("\1\0\0\0", 4);
    EXPECT_EQ(send(rank, greeting.data(), greeting.size(), 0), 20);
    EXPECT_EQ(recv(rank, answer, sizeof answer, MSG_WAITALL), 16);
    EXPECT_EQ(std::string(answer, 16), invitation.substr(16, 16)) << "rank 0 shows that it is of the job";
    close(rank);
  });

  const std::vector<Descriptor> sockets = meet_at_rank_0(*transports[0]);

  there.join();
  EXPECT_GE(sockets[1].fd(), 0);
}

}  // namespace
}  // namespace kt
