#include "runtime/plan/devices.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

// Trunk ranks on these machines, and one expert rank on each.
Topology trunk_on(const std::vector<int>& machines) {
  Topology topology;
  for (const int machine : machines) {
    topology.trunk.push_back(static_cast<int>(topology.node_of.size()));
    topology.node_of.push_back(machine);
  }
  topology.node_of.push_back(0);
  topology.world = static_cast<int>(topology.node_of.size());
  return topology;
}

DevicesHere cards(const std::vector<std::string>& names) {
  DevicesHere here;
  for (const std::string& name : names) here.devices.push_back({static_cast<int>(here.devices.size()), name});
  return here;
}
std::vector<int> indices(const DeviceShares& shares) {
  std::vector<int> found;
  for (const DeviceHere& device : shares.of_trunk) found.push_back(device.index);
  return found;
}

TEST(ShareDevices, ATrunkRankTakesTheCardOfItsPlaceOnItsMachine) {
  const DevicesHere two = cards({"A", "B"});

  EXPECT_EQ(indices(share_devices(trunk_on({0, 0}), {two, two, {}})), (std::vector<int>{0, 1}));
  EXPECT_EQ(indices(share_devices(trunk_on({0, 1, 1}), {two, two, two, {}})), (std::vector<int>{0, 0, 1}))
      << "cards of two machines may have one name";
}

TEST(ShareDevices, ALauncherMayShowEachRankACardOfItsOwn) {
  const DeviceShares shares = share_devices(trunk_on({0, 0}), {cards({"A"}), cards({"B"}), {}});

  EXPECT_EQ(indices(shares), (std::vector<int>{0, 0}));
  EXPECT_EQ(shares.of_trunk[1].name, "B");
}

TEST(ShareDevices, WhatIsMissingIsSaidWithMachineExpectedAndFound) {
  EXPECT_EQ(share_devices(trunk_on({0, 1, 1}), {cards({"A"}), cards({"B"}), cards({"B"}), {}}).missing,
            "machine 1: expected 2 GPUs for 2 trunk ranks, found 1 (B)");
  EXPECT_EQ(share_devices(trunk_on({0}), {{.devices = {}, .why_none = "no driver"}, {}}).missing,
            "machine 0: expected 1 GPU for 1 trunk rank, found none (no driver)");
  EXPECT_TRUE(share_devices(trunk_on({0}), {{}, cards({"A"})}).of_trunk.empty()) << "an expert rank's is of no use";
}

TEST(ShareDevices, RanksTellEachOtherAllOfIt) {
  DevicesHere here = cards({"NVIDIA A 01", "NVIDIA B 02"});
  here.devices[1].index = 3;
  here.why_none = "NVIDIA C has compute capability 7.0";

  const DevicesHere told = devices_of_text(to_text(here));

  EXPECT_EQ(told.why_none, here.why_none);
  ASSERT_EQ(told.devices.size(), 2u);
  EXPECT_EQ(told.devices[1].index, 3);
  EXPECT_EQ(told.devices[1].name, "NVIDIA B 02");
  EXPECT_TRUE(devices_of_text(to_text({})).devices.empty());
}

TEST(RunsOn, MachineCodeIsForItsMajorVersionAndPtxForAllLaterOnes) {
  EXPECT_TRUE(runs_on("80-real 90-real", 80));
  EXPECT_TRUE(runs_on("80-real 90-real", 86));
  EXPECT_FALSE(runs_on("80-real 90-real", 75));
  EXPECT_FALSE(runs_on("80-real 90-real", 120));
  EXPECT_FALSE(runs_on("86-real", 80));
  EXPECT_TRUE(runs_on("80-real 90", 120));
  EXPECT_TRUE(runs_on("90-virtual", 100));
  EXPECT_FALSE(runs_on("", 90));
}

}  // namespace
}  // namespace kt
