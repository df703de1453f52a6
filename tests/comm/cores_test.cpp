#include "runtime/comm/cores.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <climits>
#include <numeric>

#include "tests/refusal_of.h"

namespace kt {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Numbered as Linux does on most machines: the first hardware thread of every core, then the second of every core.
Machine machine(int nodes, int cores_each, int threads_per_core = 1) {
  Machine m;
  const int cores = nodes * cores_each;
  for (int id = 0; id < cores * threads_per_core; ++id)
    m.cpus.push_back({.id = id, .core = id % cores, .numa_node = id % cores / cores_each});
  return m;
}

std::vector<int> all_of(const Machine& m) {
  std::vector<int> ids;
  for (const Cpu& c : m.cpus) ids.push_back(c.id);
  return ids;
}

CoreUser expert(int rank, std::vector<int> cpus) { return {.rank = rank, .expert = true, .cpus = std::move(cpus)}; }
CoreUser trunk(int rank, std::vector<int> cpus) { return {.rank = rank, .trunk = true, .cpus = std::move(cpus)}; }
CoreUser both(int rank, std::vector<int> cpus) {
  return {.rank = rank, .trunk = true, .expert = true, .cpus = std::move(cpus)};
}

TEST(Machine, IsReadWithCoresAndTheirHardwareThreads) {
  const Machine m = read_machine("numa:2 core:3 pu:2");

  EXPECT_EQ(m.cpus.size(), 12u);
  EXPECT_EQ(m.cores(), 6);
  EXPECT_EQ(m.numa_nodes(), 2);
  EXPECT_EQ(m.find(0)->core, m.find(1)->core);
  EXPECT_NE(m.find(1)->core, m.find(2)->core);
  EXPECT_EQ(m.find(5)->numa_node, 0);
  EXPECT_EQ(m.find(6)->numa_node, 1);
  EXPECT_EQ(m.find(12), nullptr);
}

TEST(Machine, IsPutTogetherFromThePartsThatRanksSee) {
  Machine first = machine(2, 2, 2), second = first;
  std::erase_if(first.cpus, [](const Cpu& c) { return c.id % 4 > 1; });
  std::erase_if(second.cpus, [](const Cpu& c) { return c.id % 4 == 0; });

  const Machine whole = machine_of(std::vector{to_text(first), to_text(second)});

  EXPECT_EQ(to_text(whole), to_text(machine(2, 2, 2)));
}

TEST(Machine, OfThisProcessHasWhereItMayRun) {
  const Machine m = read_machine();
  const std::vector<int> mine = allowed_cpus();

  EXPECT_GE(m.cores(), 1);
  EXPECT_GE(core_count(m, mine), 1);
  EXPECT_LE(core_count(m, mine), m.cores());
  EXPECT_EQ(one_per_core_first(m, mine).size(), mine.size());
}

TEST(Machine, GivesAHardwareThreadOfEachCoreBeforeASecondOne) {
  const Machine siblings_adjacent = read_machine("numa:1 core:3 pu:2");

  EXPECT_THAT(one_per_core_first(siblings_adjacent, std::vector{0, 1, 2, 3, 5}), ElementsAre(0, 2, 5, 1, 3));
  EXPECT_EQ(core_count(siblings_adjacent, std::vector{0, 1, 5}), 2);
}

TEST(Machine, WritesProcessorsAsRanges) {
  EXPECT_EQ(as_ranges({}), "");
  EXPECT_EQ(as_ranges({4}), "4");
  EXPECT_EQ(as_ranges({8, 0, 2, 1, 3, 10, 11}), "0-3, 8, 10-11");
}

TEST(ShareCores, TakesOneHardwareThreadOfEachCore) {
  const Machine m = machine(1, 4, 2);

  const auto plans = share_cores(m, std::vector{both(0, all_of(m))}, {});

  EXPECT_EQ(plans[0].threads, 4);
  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plans[0].warnings, IsEmpty());
}

TEST(ShareCores, TakesSiblingsOnlyWhenAskedTo) {
  const Machine m = machine(1, 4, 2);

  const auto alone = share_cores(m, std::vector{both(0, all_of(m))}, {.threads_per_core = 2});
  const auto two = share_cores(m, std::vector{expert(0, all_of(m)), expert(1, all_of(m))}, {.threads_per_core = 2});

  EXPECT_EQ(alone[0].threads, 8);
  EXPECT_THAT(alone[0].cores, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(two[0].cores, ElementsAre(0, 1, 4, 5)) << "no two ranks share a core";
  EXPECT_THAT(two[1].cores, ElementsAre(2, 3, 6, 7));
}

TEST(ShareCores, SpreadsThreadsOverCoresBeforeSiblings) {
  const Machine m = machine(1, 4, 2);

  const auto plans = share_cores(m, std::vector{expert(0, all_of(m))}, {.kt_cpuinfer = 3, .threads_per_core = 2});

  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1, 2));
}

TEST(ShareCores, SaysThatSiblingsAreThereWhenMoreThreadsAreAskedForThanCores) {
  const Machine m = machine(1, 4, 2);

  const auto plans = share_cores(m, std::vector{expert(0, all_of(m))}, {.kt_cpuinfer = 8});

  EXPECT_EQ(plans[0].threads, 4);
  EXPECT_THAT(plans[0].warnings, ElementsAre(AllOf(HasSubstr("8 threads were asked for"), HasSubstr("has 4 cores"),
                                                   HasSubstr("threads-per-core"))));
}

TEST(ShareCores, SpreadsExpertRanksOverTheNumaNodes) {
  const Machine m = machine(2, 4);
  const std::vector<int> all = all_of(m);

  const auto plans = share_cores(m, std::vector{trunk(0, all), expert(1, all), expert(2, all)}, {});

  EXPECT_EQ(plans[0].numa_node, 0);
  EXPECT_EQ(plans[1].numa_node, 0);
  EXPECT_EQ(plans[2].numa_node, 1);
  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1, 2, 3)) << "in turn with rank 1";
  EXPECT_THAT(plans[1].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plans[2].cores, ElementsAre(4, 5, 6, 7));
}

TEST(ShareCores, TrunkRanksAndExpertRanksUseTheSameCoresInTurnWhereTheyMust) {
  const Machine m = machine(1, 4);
  const std::vector<int> all = all_of(m);

  const auto plans =
      share_cores(m, std::vector{trunk(0, all), trunk(1, all), expert(2, all), expert(3, all), expert(4, all)}, {});
  const auto few = share_cores(m, std::vector{trunk(0, all), expert(1, all)}, {.trunk_threads = 1, .kt_cpuinfer = 3});
  const auto many = share_cores(m, std::vector{trunk(0, all), expert(1, all)}, {.trunk_threads = 2, .kt_cpuinfer = 3});

  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1));
  EXPECT_THAT(plans[1].cores, ElementsAre(2, 3));
  for (int i : {2, 3, 4}) EXPECT_THAT(plans[i].cores, ElementsAre(i - 2));
  EXPECT_THAT(few[0].cores, ElementsAre(0));
  EXPECT_THAT(few[1].cores, ElementsAre(1, 2, 3)) << "there is room for all";
  EXPECT_THAT(many[0].cores, ElementsAre(0, 1));
  EXPECT_THAT(many[1].cores, ElementsAre(2, 3, 0)) << "free ones first";
}

TEST(ShareCores, TrunkThreadsCountOnARankWithBothRoles) {
  const Machine m = machine(1, 8);
  const std::vector<CoreUser> one = {both(0, all_of(m))};

  const auto trunk_only = share_cores(m, one, {.trunk_threads = 3});
  const auto both_given = share_cores(m, one, {.trunk_threads = 3, .kt_cpuinfer = 5});
  const auto equal = share_cores(m, one, {.trunk_threads = 5, .kt_cpuinfer = 5});

  EXPECT_EQ(trunk_only[0].threads, 3);
  EXPECT_EQ(both_given[0].threads, 5);
  EXPECT_THAT(both_given[0].warnings, ElementsAre(AllOf(HasSubstr("trunk-threads 3"), HasSubstr("kt-cpuinfer 5"))));
  EXPECT_THAT(equal[0].warnings, IsEmpty());
}

TEST(ShareCores, KtCpuinferIsForAllExpertRanksOfAMachineWhetherTheyAreBoundOrNot) {
  const Machine m = machine(2, 4);
  const std::vector<int> all = all_of(m);
  const CoreRequest request{.kt_cpuinfer = 5};

  const auto free = share_cores(m, std::vector{expert(0, all), expert(1, all)}, request);
  const auto bound = share_cores(m, std::vector{expert(0, {0, 1, 2, 3}), expert(1, {4, 5, 6, 7})}, request);

  for (const auto& plans : {free, bound}) {
    EXPECT_EQ(plans[0].threads, 3);
    EXPECT_EQ(plans[1].threads, 2);
    EXPECT_THAT(plans[1].cores, ElementsAre(4, 5));
    EXPECT_EQ(plans[1].numa_node, 1);
    EXPECT_THAT(plans[0].warnings, IsEmpty());
  }
}

TEST(ShareCores, KtNumaNodesNamesTheNodesOfBoundRanksToo) {
  const Machine m = machine(2, 4);
  const std::vector<int> all = all_of(m);
  const std::vector<CoreUser> bound = {expert(0, {4, 5, 6, 7}), expert(1, {0, 1, 2, 3})};

  const auto fits = share_cores(m, bound, {.kt_numa_nodes = {1, 0}});
  const auto free = share_cores(m, std::vector{expert(0, all), expert(1, all)}, {.kt_numa_nodes = {1, 1}});

  EXPECT_THAT(fits[0].cores, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(fits[1].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(free[0].cores, ElementsAre(4, 5));
  EXPECT_THAT(free[1].cores, ElementsAre(6, 7));
  EXPECT_THAT(refusal_of(
                  [&] {
                    share_cores(m, bound, {.kt_numa_nodes = {0, 1}});
                  },
                  kExitUsage),
              AllOf(HasSubstr("NUMA node 0 has no core that rank 0 may use"), HasSubstr("--bind-to none")));
  EXPECT_THAT(refusal_of([&] { share_cores(m, bound, {.kt_numa_nodes = {0}}); }, kExitUsage),
              HasSubstr("kt-numa-nodes names 1 nodes for 2 expert ranks"));
}

TEST(ShareCores, ALauncherThatBindsEachRankToACoreIsNamed) {
  const Machine m = machine(1, 8);

  const auto plans = share_cores(m, std::vector{trunk(0, {0}), expert(1, {1})}, {.kt_cpuinfer = 4});

  EXPECT_THAT(plans[0].cores, ElementsAre(0));
  EXPECT_THAT(plans[1].cores, ElementsAre(1));
  EXPECT_THAT(plans[0].warnings, ElementsAre(AllOf(HasSubstr("2 of its 8 cores"), HasSubstr("--bind-to none"))));
  EXPECT_THAT(plans[1].warnings, ElementsAre(AllOf(HasSubstr("4 threads"), HasSubstr("left 1 to this rank"))));
}

TEST(ShareCores, ACoreWhoseSiblingsTheLauncherDealtOutIsNotTakenTwice) {
  const Machine m = machine(1, 2, 2);

  const auto plans = share_cores(m, std::vector{expert(0, {0, 1}), expert(1, {2, 3})}, {});

  EXPECT_EQ(plans[0].threads + plans[1].threads, 2);
  EXPECT_THAT(plans[0].cores, ElementsAre(0));
  EXPECT_THAT(plans[1].cores, ElementsAre(3));
}

TEST(ShareCores, RanksOfOneSocketShareItsCoresAlone) {
  const Machine m = machine(2, 4);
  const std::vector<int> first = {0, 1, 2, 3}, second = {4, 5, 6, 7};

  const auto plans = share_cores(m, std::vector{expert(0, first), expert(1, second), expert(2, first)}, {});

  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1));
  EXPECT_THAT(plans[1].cores, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(plans[2].cores, ElementsAre(2, 3));
}

TEST(ShareCores, WhoeverHasFewerCoresToChooseFromChoosesFirst) {
  const Machine m = machine(1, 4);

  const auto plans = share_cores(m, std::vector{expert(0, all_of(m)), expert(1, {0, 1})}, {});

  EXPECT_THAT(plans[1].cores, ElementsAre(0));
  EXPECT_THAT(plans[0].cores, ElementsAre(1, 2));
}

TEST(ShareCores, AControlGroupsCoresAreAllThatThereIs) {
  Machine m;
  for (int id : {3, 6, 7}) m.cpus.push_back({.id = id, .core = id, .numa_node = 1});

  const auto plans = share_cores(m, std::vector{trunk(0, {3, 6, 7}), expert(1, {3, 6, 7})}, {.trunk_threads = 2});

  EXPECT_THAT(plans[0].cores, ElementsAre(3, 6));
  EXPECT_THAT(plans[1].cores, ElementsAre(7, 3, 6));
  EXPECT_EQ(plans[0].numa_node, -1) << "there is one node, memory may be anywhere";
  EXPECT_THAT(plans[0].warnings, IsEmpty());
}

TEST(ShareCores, NobodyIsPinnedWhereThereAreMoreThreadsThanRoom) {
  const Machine m = machine(2, 2);
  const std::vector<int> first = {0, 1}, second = {2, 3};

  const auto plans = share_cores(
      m, std::vector{expert(0, first), expert(1, first), expert(2, first), expert(3, second), expert(4, second)}, {});

  for (int i : {0, 1, 2}) {
    EXPECT_EQ(plans[i].threads, 1);
    EXPECT_THAT(plans[i].cores, IsEmpty()) << i;
  }
  EXPECT_THAT(plans[3].cores, ElementsAre(2)) << "the other socket has room";
  EXPECT_THAT(plans[4].cores, ElementsAre(3));
}

TEST(ShareCores, RanksThatAreBoundToTheSameCoresAreRefusedWhereTheMachineHasEnough) {
  const Machine m = machine(1, 4, 2);
  const auto refusal = [&](std::vector<CoreUser> users) {
    return refusal_of([&] { share_cores(m, users, {}); }, kExitUsage);
  };

  EXPECT_THAT(refusal({trunk(0, {0}), expert(1, {0})}),
              AllOf(HasSubstr("ranks 0, 1 have been bound to 1 core of a machine that has 4"),
                    HasSubstr("mpirun --bind-to none"), HasSubstr("srun --cpu-bind=none")));
  EXPECT_THAT(refusal({trunk(0, {0}), expert(1, {4})}), HasSubstr("ranks 0, 1")) << "hardware threads of one core";
  EXPECT_THAT(refusal({trunk(0, all_of(m)), expert(1, {2, 3}), expert(2, {3}), expert(3, {2, 3, 6, 7})}),
              HasSubstr("ranks 1, 2, 3 have been bound to 2 cores"));
  EXPECT_NO_THROW(share_cores(m, std::vector{trunk(0, {0, 1}), expert(1, {0, 1})}, {}));
}

TEST(ShareCores, ARankThatIsBoundAcrossNumaNodesIsRefused) {
  const Machine m = machine(2, 3);
  const std::vector<CoreUser> dealt = {expert(0, {0, 1}), expert(1, {2, 3}), expert(2, {4, 5})};

  EXPECT_THAT(refusal_of([&] { share_cores(m, dealt, {}); }, kExitUsage),
              AllOf(HasSubstr("rank 1 has been bound to cores of NUMA nodes 0 and 1"), HasSubstr("--cpu-bind=none")));
  EXPECT_NO_THROW(share_cores(m, dealt, {.kt_numa_nodes = {0, 0, 1}}));
  EXPECT_NO_THROW(share_cores(m, std::vector{both(0, {1, 2, 3})}, {})) << "one rank alone takes what it is given";
}

TEST(ShareCores, NumaNodesWithoutARankAreNamed) {
  const Machine m = machine(4, 2);
  const std::vector<CoreUser> two = {expert(0, all_of(m)), expert(1, all_of(m))};

  EXPECT_THAT(share_cores(m, two, {})[0].warnings, ElementsAre(HasSubstr("NUMA nodes 1, 3 of this machine's 4")));
  EXPECT_THAT(share_cores(m, two, {.kt_numa_nodes = {0, 1}})[0].warnings, IsEmpty());
}

TEST(ShareCores, RanksWithNothingToComputeTakeNoCores) {
  const Machine m = machine(1, 4);
  const std::vector<int> all = all_of(m);
  CoreUser idle = expert(3, all);
  idle.idle = true;

  const auto plans = share_cores(m, std::vector{CoreUser{.rank = 0, .cpus = all}, trunk(1, all), expert(2, all), idle},
                                 {.kt_cpuinfer = 2});

  EXPECT_THAT(plans[0].cores, IsEmpty());
  EXPECT_THAT(plans[1].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plans[2].cores, ElementsAre(0, 1)) << "kt-cpuinfer is for those that hold experts";
  EXPECT_THAT(plans[3].cores, IsEmpty());
  EXPECT_EQ(plans[3].threads, 1);
}

TEST(ShareCores, ClampsTheLargestNumbersThatOptionsTake) {
  const Machine m = machine(1, 4);
  const std::vector<int> all = all_of(m);

  const auto plans = share_cores(m, std::vector{trunk(0, all), expert(1, all), expert(2, all)},
                                 {.trunk_threads = INT_MAX, .kt_cpuinfer = INT_MAX, .threads_per_core = 8});

  for (const CorePlan& p : plans) EXPECT_EQ(p.threads, 4);
  EXPECT_THAT(plans[0].cores, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plans[1].cores, IsEmpty());
  EXPECT_THAT(plans[2].cores, IsEmpty());
}

}  // namespace
}  // namespace kt
