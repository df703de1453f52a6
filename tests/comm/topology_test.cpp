#include "runtime/comm/topology.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Ranks = std::vector<int>;

struct ValidWorld {
  const char* name;
  int tensor_parallel, experts_per_node;
  Ranks node_of, trunk, experts;
};

void PrintTo(const ValidWorld& world, std::ostream* os) { *os << world.name; }

class ValidWorlds : public ::testing::TestWithParam<ValidWorld> {};

TEST_P(ValidWorlds, GiveEveryRankItsRoles) {
  const ValidWorld& w = GetParam();
  for (int rank = 0; rank < static_cast<int>(w.node_of.size()); ++rank) {
    const Topology topology = plan_topology({w.tensor_parallel, w.experts_per_node}, rank, w.node_of);

    EXPECT_EQ(topology.trunk, w.trunk);
    EXPECT_EQ(topology.experts, w.experts);
    EXPECT_EQ(topology.node_of, w.node_of);
    EXPECT_EQ(topology.rank, rank);
    EXPECT_EQ(topology.world, static_cast<int>(w.node_of.size()));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, ValidWorlds,
    ::testing::Values(ValidWorld{"one process", 1, -1, {0}, {0}, {0}},
                      ValidWorld{"one process, P given", 1, 1, {0}, {0}, {0}},
                      ValidWorld{"one process, two trunk ranks wanted", 2, 2, {0}, {0}, {0}},
                      ValidWorld{"one process, more slices than ranks", 1, 4, {0}, {0}, {0}},
                      ValidWorld{"T + P", 1, 2, {0, 0, 0}, {0}, {1, 2}},
                      ValidWorld{"T + P, two trunk ranks", 2, 3, {0, 0, 0, 0, 0}, {0, 1}, {2, 3, 4}},
                      ValidWorld{"T + P + 1", 1, 2, {0, 0, 0, 0}, {1}, {2, 3}},
                      ValidWorld{"T + P*nodes", 1, 2, {0, 0, 0, 1, 1}, {0}, {1, 2, 3, 4}},
                      ValidWorld{"T + P*nodes, trunk on the first node", 2, 1, {0, 0, 0, 1}, {0, 1}, {2, 3}},
                      ValidWorld{"T + P*nodes, dealt out by node", 1, 2, {0, 1, 0, 1, 0}, {0}, {2, 4, 1, 3}},
                      ValidWorld{"T + P*nodes + 1", 2, 1, {0, 0, 0, 0, 1}, {1, 2}, {3, 4}},
                      ValidWorld{"P*nodes", 2, 2, {0, 0, 1, 1}, {0, 1}, {0, 1, 2, 3}},
                      ValidWorld{"P, one node", 1, 3, {0, 0, 0}, {0}, {0, 1, 2}},
                      ValidWorld{"P == T", 3, 3, {0, 0, 0}, {0, 1, 2}, {0, 1, 2}},
                      ValidWorld{"P absent, all both", 2, -1, {0, 0}, {0, 1}, {0, 1}},
                      ValidWorld{"P absent, the rest are experts", 1, -1, {0, 0, 0, 0, 0}, {0}, {1, 2, 3, 4}},
                      ValidWorld{"P absent, two nodes", 1, -1, {0, 0, 1}, {0}, {1, 2}}));

struct InvalidWorld {
  const char* name;
  int tensor_parallel, experts_per_node;
  Ranks node_of;
  const char* said;
};

void PrintTo(const InvalidWorld& world, std::ostream* os) { *os << world.name; }

class InvalidWorlds : public ::testing::TestWithParam<InvalidWorld> {};

TEST_P(InvalidWorlds, AreRefusedSayingWhatIsValid) {
  const InvalidWorld& w = GetParam();
  try {
    plan_topology({w.tensor_parallel, w.experts_per_node}, 0, w.node_of);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), kExitUsage);
    EXPECT_NE(std::string(error.what()).find(w.said), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Table, InvalidWorlds,
    ::testing::Values(InvalidWorld{"two processes for three trunk ranks", 3, -1, {0, 0}, "3 (every rank"},
                      InvalidWorld{"two processes for two trunk ranks, P given", 2, 1, {0, 0}, "valid: 3 (trunk"},
                      InvalidWorld{"too many", 1, 2, {0, 0, 0, 0, 0}, "valid: 4 (rank 0 schedules only"},
                      InvalidWorld{"too few", 2, 3, {0, 0}, "valid: 3 (the first 2 expert ranks hold the trunk)"},
                      InvalidWorld{"P*nodes below T", 3, 2, {0, 0}, "valid: 5 (trunk"},
                      InvalidWorld{"nodes counted", 1, 2, {0, 0, 1}, "valid: 5 (trunk"},
                      InvalidWorld{"no trunk", 0, 2, {0, 0}, "tensor-parallel-size"},
                      InvalidWorld{"negative trunk", -1, 2, {0, 0}, "tensor-parallel-size"},
                      InvalidWorld{"no experts", 1, 0, {0, 0}, "kt-threadpool-count"},
                      InvalidWorld{"huge P", 1, 2'000'000'000, {0, 0}, "kt-threadpool-count"},
                      InvalidWorld{"huge P on two nodes", 1, 2'000'000'000, {0, 1}, "valid: 4000000001 (trunk"},
                      InvalidWorld{"huge T", 2'147'483'647, -1, {0, 1}, "try: mpirun -np 2147483648"},
                      InvalidWorld{"experts spread unevenly", 1, 2, {0, 0, 1, 1, 1}, "node 0 has 1 expert rank;"}));

TEST(Topology, NamesTheRolesOfARank) {
  EXPECT_EQ(plan_topology({1, -1}, 0, Ranks{0}).role_name(), "scheduler+trunk+expert");
  EXPECT_EQ(plan_topology({1, 1}, 0, Ranks{0, 0, 0}).role_name(), "scheduler");
  EXPECT_EQ(plan_topology({1, 1}, 1, Ranks{0, 0, 0}).role_name(), "trunk");
  EXPECT_EQ(plan_topology({1, 1}, 2, Ranks{0, 0, 0}).role_name(), "expert");
  EXPECT_EQ(plan_topology({2, 2}, 1, Ranks{0, 0}).role_name(), "trunk+expert");
}

TEST(Topology, KnowsItsPlaceAmongTrunkAndExperts) {
  const Topology topology = plan_topology({2, 2}, 3, Ranks{0, 0, 0, 0});

  EXPECT_EQ(topology.trunk_index(), -1);
  EXPECT_EQ(topology.expert_index(), 1);
}

TEST(Topology, SaysWhereMachinesHaveDifferentNumbersOfExpertRanks) {
  const auto of = [](std::vector<int> node_of) { return uneven_machines(plan_topology({1, -1}, 0, node_of)); };

  EXPECT_THAT(of({0, 0, 0, 0, 1, 2}), ::testing::AllOf(::testing::HasSubstr("have 3, 1, 1 expert ranks"),
                                                       ::testing::HasSubstr("kt-threadpool-count 3 with 9 ranks"),
                                                       ::testing::HasSubstr("--ntasks-per-node=3")));
  EXPECT_EQ(of({0, 0, 0, 1, 1}), "");
  EXPECT_EQ(of({0, 1, 2}), "") << "the first machine is the trunk's";
  EXPECT_EQ(of({0}), "");
}

TEST(Topology, RefusesARankOutsideTheWorld) { EXPECT_THROW(plan_topology({1, -1}, 2, Ranks{0, 0}), Error); }

}  // namespace
}  // namespace kt
