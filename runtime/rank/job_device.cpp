#include "runtime/rank/job_device.h"

#include <algorithm>
#include <map>

#include "kernels/device_fault.h"
#include "runtime/base/log.h"
#include "runtime/plan/devices.h"
#include "runtime/rank/job_memory.h"

namespace kt {
namespace {

// What `device: auto` may become besides the CPU.
constexpr std::string_view kAutomatic = "cuda";

// What this rank may use of a kind, for other ranks to know.
std::string devices_seen(const DeviceKind& kind) {
  try {
    return to_text(kind.list());
  } catch (const DeviceFault& e) {
    return to_text({.devices = {}, .why_none = e.what()});
  }
}

void say_what_auto_is(const JobRank& job, const std::string& missing) {
  if (job.gpu_trunk())
    log("device auto: cuda: the trunk and its hot experts are as fast as the GPUs and their memory");
  else
    log("device auto: cpu ({}): the trunk is as fast as the CPUs and their memory", missing);
}

}  // namespace

// All ranks tell each other what they see before one of them may fail.
void choose_device(JobRank& job) {
  const bool automatic = job.run.device == "auto";
  const DeviceKind* kind = find_device_kind(automatic ? kAutomatic : job.run.device);
  const bool counted = kind && kind->list;
  const int place = job.topology.trunk_index();
  std::vector<DevicesHere> of_rank;
  for (const std::string& text : all_gather(job.transport, counted && place >= 0 ? devices_seen(*kind) : ""))
    of_rank.push_back(devices_of_text(text));

  DeviceShares shares{.of_trunk = {}, .missing = "this program is built without CUDA"};
  if (counted) shares = share_devices(job.topology, of_rank);
  if (counted && !automatic && shares.of_trunk.empty())
    fail(kExitUsage,
         "device {}: {}\nlook at the driver (nvidia-smi) and at CUDA_VISIBLE_DEVICES, start fewer trunk ranks "
         "(tensor-parallel-size), or use device auto or cpu",
         job.run.device, shares.missing);
  if (kind && (!counted || !shares.of_trunk.empty())) job.device_kind = kind;
  job.run.device = job.device_kind->name;
  if (automatic && job.rank() == 0) say_what_auto_is(job, shares.missing);
  if (place < 0 || !job.gpu_trunk()) return;

  const DeviceHere& mine = shares.of_trunk[static_cast<size_t>(place)];
  job.device_index = mine.index;
  job.device_bytes = job.device_kind->available_bytes(mine.index);
  log("device {} {}: {}, {:.1f} GB free", job.run.device, mine.index, mine.name,
      static_cast<double>(job.device_bytes) / 1e9);
}

void describe_gpus(const JobRank& job, const std::vector<size_t>& free_bytes, Hardware& machine) {
  std::map<int, int> trunks;  // by machine
  for (const int rank : job.topology.trunk)
    machine.gpus = std::max(machine.gpus, ++trunks[job.topology.node_of[static_cast<size_t>(rank)]]);
  const size_t least = *std::min_element(free_bytes.begin(), free_bytes.end());
  machine.gpu_memory_gb = kShareOfDevice * static_cast<double>(least) / 1e9;
}

}  // namespace kt
