#pragma once

#include <span>
#include <string>
#include <string_view>

#include "runtime/model/cache.h"
#include "runtime/model/experts/bank.h"
#include "runtime/model/trunk.h"

namespace kt {

// The memory that one rank will take, by purpose, in bytes: known before any of it is taken. Buffers count as the whole
// huge pages that they touch.
struct MemoryPlan {
  // On the trunk's device:
  size_t trunk_weights = 0;  // attention, dense and shared feed-forwards, router, head
  size_t hot_experts = 0;    // experts that the trunk computes itself
  size_t layer_slots = 0;    // where layerwise prefill streams experts to
  size_t kv_cache = 0;
  size_t states = 0;  // recurrent ones, of running requests and snapshots
  size_t step = 0;    // buffers of a forward pass
  // In memory, whatever the device is:
  size_t experts = 0;      // the bank
  size_t expert_step = 0;  // rows, activations and sums of a bank
  size_t messages = 0;     // as large as they grow
  size_t process = 0;      // the program itself, MPI, tokenizer

  size_t on_device() const { return trunk_weights + hot_experts + layer_slots + kv_cache + states + step; }
  size_t in_memory() const { return experts + expert_step + messages + process; }
  size_t total() const { return on_device() + in_memory(); }
};

// The fields by name, in order.
struct Purpose {
  std::string_view name;  // as in tables
  size_t MemoryPlan::*bytes;
  bool on_device;
};
std::span<const Purpose> purposes();

// On a GPU layerwise prefill fills one slot while the trunk computes with the other, each for all experts of a layer. A
// trunk on the CPU takes them in smaller batches (expert_fetch.h).
inline constexpr int kLayerSlots = 2;

struct MemoryRequest {
  const ModelConfig& config;
  const TrunkShare* trunk = nullptr;  // nullptr: no trunk rank
  size_t trunk_weights = 0;           // of trunk_size()
  ExpertShare bank;                   // without columns: no expert rank
  Format experts = Format::BF16;      // of the bank
  CacheLimits cache;
  TrunkLimits limits;
  bool gpu_trunk = false;
  size_t door_bytes = 0;   // doors.h
  int threads = 1;         // of this rank
  bool scheduler = false;  // rank 0: tokenizer, requests, logits of all trunk ranks
};
MemoryPlan plan_memory(const MemoryRequest& request);
// "trunk weights 1.20 + experts 3.40 + ... = 4.90 GB"; a GB is 1e9 bytes. Purposes without bytes are left out.
std::string describe(const MemoryPlan& plan);

// What this machine can still give to processes, in bytes: MemAvailable, or what its control group leaves if that is
// less.
size_t available_memory();

}  // namespace kt
