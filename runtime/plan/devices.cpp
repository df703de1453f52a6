#include "runtime/plan/devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

namespace kt {
namespace {

std::string missing_on(int machine, const Topology& topology, const std::vector<DevicesHere>& of_rank) {
  int ranks = 0;
  std::set<std::string> names;
  std::string why;
  for (const int rank : topology.trunk)
    if (topology.node_of[static_cast<size_t>(rank)] == machine) {
      const DevicesHere& here = of_rank[static_cast<size_t>(rank)];
      for (const DeviceHere& device : here.devices) names.insert(device.name);
      if (why.empty()) why = here.why_none;
      ++ranks;
    }
  std::string text = fmt::format("machine {}: expected {} GPU{} for {} trunk rank{}, found ", machine, ranks,
                                 ranks == 1 ? "" : "s", ranks, ranks == 1 ? "" : "s");
  text += names.empty() ? "none" : fmt::format("{}", names.size());
  if (!why.empty()) return text + " (" + why + ")";
  for (auto name = names.begin(); name != names.end(); ++name)
    text += (name == names.begin() ? " (" : ", ") + *name + (std::next(name) == names.end() ? ")" : "");
  return text;
}

}  // namespace

DeviceShares share_devices(const Topology& topology, const std::vector<DevicesHere>& of_rank) {
  DeviceShares shares;
  std::set<std::pair<int, std::string>> taken;
  for (const int rank : topology.trunk) {
    const int machine = topology.node_of[static_cast<size_t>(rank)];
    const std::vector<DeviceHere>& seen = of_rank[static_cast<size_t>(rank)].devices;
    const auto left = std::find_if(seen.begin(), seen.end(), [&](const DeviceHere& device) {
      return taken.insert({machine, device.name}).second;
    });
    if (left == seen.end()) return {.of_trunk = {}, .missing = missing_on(machine, topology, of_rank)};
    shares.of_trunk.push_back(*left);
  }
  return shares;
}

std::string to_text(const DevicesHere& here) {
  std::string text = here.why_none + "\n";
  for (const DeviceHere& device : here.devices) text += fmt::format("{} {}\n", device.index, device.name);
  return text;
}

DevicesHere devices_of_text(const std::string& text) {
  DevicesHere here;
  std::istringstream lines(text);
  std::getline(lines, here.why_none);
  for (DeviceHere device; lines >> device.index && std::getline(lines >> std::ws, device.name);)
    here.devices.push_back(device);
  return here;
}

}  // namespace kt
