#include "runtime/plan/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "runtime/base/units.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {
namespace {

constexpr Purpose kPurposes[] = {
    {"trunk weights", &MemoryPlan::trunk_weights, true},
    {"hot experts", &MemoryPlan::hot_experts, true},
    {"layer slots", &MemoryPlan::layer_slots, true},
    {"kv cache", &MemoryPlan::kv_cache, true},
    {"states", &MemoryPlan::states, true},
    {"step", &MemoryPlan::step, true},
    {"experts", &MemoryPlan::experts, false},
    {"expert step", &MemoryPlan::expert_step, false},
    {"messages", &MemoryPlan::messages, false},
    {"process", &MemoryPlan::process, false},
};

// Anonymous and shared memory of a rank that holds nothing: libraries, MPI, threads; and on rank 0 the tokenizer and
// the interpreter that renders chat templates. Twice what was measured with Open MPI 4.1 and vocabularies of 130 000 to
// 250 000: 10 MB, and 40 MB more.
constexpr size_t kProcessBytes = 20'000'000, kSchedulerBytes = 80'000'000;

// Batches of weights that may be on their way at a time: of a layerwise step, and beside the steps.
size_t batches(const MemoryRequest& r) { return (r.limits.layerwise ? 1u : 0u) + (r.limits.spare_experts ? 1u : 0u); }

// A trunk rank's own bank lies in the machine's memory, and is computed by the CPU.
bool bank_is_the_devices(const MemoryRequest& r) { return r.limits.device == &cpu_kind(); }

void add_trunk(MemoryPlan& plan, const MemoryRequest& r) {
  const ModelConfig& c = r.config;
  const StateCache::Bytes cache = StateCache::bytes(c, *r.trunk, r.cache);
  plan.trunk_weights = r.trunk_weights;
  plan.kv_cache = Buffer::footprint(cache.pages);
  plan.states = Buffer::footprint(cache.states);
  plan.step = step_bytes(c, *r.trunk, r.limits, bank_is_the_devices(r) ? r.bank : ExpertShare(), r.threads);

  if (c.moe.experts) {
    const MoeRoomBytes room = moe_room_bytes(c, *r.trunk, r.limits, r.bank);
    const int columns = inter_part(c.moe.inter, r.trunk->index, r.trunk->count).size();
    plan.hot_experts = room.hot;
    plan.layer_slots = room.stream;
    if (r.gpu_trunk && r.limits.layerwise)
      plan.layer_slots = kLayerSlots * Buffer::footprint(HotExperts::bytes(c, r.experts, columns, c.moe.experts));
    (r.limits.device->host_writes ? plan.step : plan.messages) += room.host;
    plan.messages += batches(r) * static_cast<size_t>(fetch_batch(c, r.experts)) * expert_bytes(c, r.experts, columns);
  }
}

void add_experts(MemoryPlan& plan, const MemoryRequest& r) {
  const ModelConfig& c = r.config;
  plan.experts = Buffer::footprint(bank_bytes(c, r.experts, r.bank));
  // Of each batch two, as they are sent.
  plan.messages += 2 * batches(r) * static_cast<size_t>(fetch_batch(c, r.experts)) * expert_bytes(c, r.experts, r.bank);
  if (r.trunk && bank_is_the_devices(r)) return;
  plan.expert_step =
      Buffer::footprint(cpu_reserve_bytes(bank_shape(c, r.bank, r.experts, r.limits.max_rows), r.threads));
  if (!r.trunk) plan.expert_step += piece_bytes(c, r.bank, r.limits.max_rows);
}

size_t read_number(const char* path) {
  std::ifstream file(path);
  size_t n = 0;
  return file >> n ? n : SIZE_MAX;
}

}  // namespace

std::span<const Purpose> purposes() { return kPurposes; }

MemoryPlan plan_memory(const MemoryRequest& r) {
  MemoryPlan plan;
  if (r.trunk) add_trunk(plan, r);
  if (r.bank.columns()) add_experts(plan, r);
  plan.messages += r.door_bytes;
  plan.process = kProcessBytes;
  if (r.scheduler) {
    plan.process += kSchedulerBytes;
    plan.messages += static_cast<size_t>(r.limits.max_logit_rows) * r.config.vocab * sizeof(float);
  }
  return plan;
}

std::string describe(const MemoryPlan& plan) {
  std::string text;
  for (const Purpose& p : purposes())
    if (plan.*p.bytes) text += fmt::format("{}{} {:.2f}", text.empty() ? "" : " + ", p.name, gb(plan.*p.bytes));
  return text + fmt::format(" = {:.2f} GB", gb(plan.total()));
}

size_t available_memory() {
  size_t available = SIZE_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    size_t kib = 0;
    meminfo >> kib >> unit;
    if (key == "MemAvailable:") available = kib * 1024;
    if (key == "MemAvailable:") break;
  }
  const size_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
  if (limit != SIZE_MAX && used != SIZE_MAX) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

}  // namespace kt
