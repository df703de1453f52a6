#pragma once

#include <string>
#include <vector>

#include "kernels/device.h"
#include "runtime/comm/topology.h"

namespace kt {

// The device that each trunk rank takes, by trunk index; or, where a machine has fewer than trunk ranks, what was
// expected and found there.
struct DeviceShares {
  std::vector<DeviceHere> of_trunk;
  std::string missing;
};
// `of_rank`: what each rank of the job may use. Of those of a machine the first trunk rank takes the first one that it
// sees, the next one the first that is left: a launcher may show all of them to every rank, or to each its own.
DeviceShares share_devices(const Topology& topology, const std::vector<DevicesHere>& of_rank);

// For messages between ranks.
std::string to_text(const DevicesHere& here);
DevicesHere devices_of_text(const std::string& text);

}  // namespace kt
