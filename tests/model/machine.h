#pragma once

// One rank with generated weights, on each of the devices that there are.

#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/format/bf16.h"
#include "runtime/arch/arch.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/experts/moe_room.h"

namespace kt {

// What tests of devices run on: every table of kernels, more or fewer threads, and a GPU's code on the CPU.
struct TestDevice {
  const Ops* ops;
  int threads;
  const DeviceKind* kind = &cpu_kind();

  std::string name() const {
    return std::string(kind->name) + ", " + std::string(ops->name) + " with " + std::to_string(threads) + " threads";
  }
  std::unique_ptr<Device> make(ThreadPool& pool) const { return kind->make(*ops, pool, -1, 0); }
};
inline std::vector<TestDevice> test_devices() {
#ifdef __SANITIZE_THREAD__
  return {{available_ops().back(), 3}};  // threads do the same with every table; a test takes minutes with all
#endif
  std::vector<TestDevice> devices;
  for (const Ops* ops : available_ops()) devices.push_back({ops, 3});
  devices.push_back({available_ops().front(), 1});
  devices.push_back({available_ops().back(), 5});
// Under the other sanitizer it takes minutes a test, and its kernels have tests of their own.
#ifndef __SANITIZE_ADDRESS__
  devices.push_back({available_ops().back(), 1, find_device_kind("cuda-emulated")});
#endif
  return devices;
}

struct Chunk {
  int first, count;
};

// Where a rank is that is not alone.
struct Place {
  Transport* transport = nullptr;
  Topology topology;
  TrunkDispatch* dispatch = nullptr;  // to expert ranks
};

// A sequence's pages are handed out in a scrambled order.
struct Machine {
  static constexpr int kBlocks = 64;

  // `experts`: of its limits what concerns routed experts.
  Machine(const ModelConfig& model, const char* model_type, const TestDevice& on, const TrunkLimits& experts = {},
          const Place& place = {})
      : config(model),
        arch(find_arch(nlohmann::json{{"model_type", model_type}})),
        limits(with_sizes(experts, on)),
        pool(on.threads),
        cpu(make_cpu_device(*on.ops, pool, -1)),
        device(on.make(pool)),
        transport(place.transport ? *place.transport : *alone[0]),
        topology(place.transport ? place.topology : plan_topology({}, 0, transport.nodes())),
        dispatch(place.dispatch) {}

  StepPlan plan(const Chunk& chunk, int prompt = 0) const {
    StepPlan plan;
    plan.slices = {
        {.slot = 0, .first = chunk.first, .count = chunk.count, .logits_from = chunk.count - 1, .prompt = prompt}};
    for (int i = 0; i < chunk.count; ++i) plan.tokens.push_back((chunk.first + i) * 37 % config.vocab);
    for (int i = 0; i < kBlocks; ++i) plan.blocks.push_back((i * 11 + 5) % kBlocks);
    plan.block_begin = {0, kBlocks};
    return plan;
  }
  // Logits of the last token of the last chunk.
  std::vector<float> logits(const std::vector<Chunk>& chunks, int prompt = 0) {
    std::vector<float> out;
    for (const Chunk& chunk : chunks) {
      const float* row = forward(trunk, plan(chunk, prompt));
      out.assign(row, row + config.vocab);
    }
    return out;
  }
  // Makes the rows that a part of a layer reads: random ones, at the plan's positions.
  void begin(const StepPlan& plan) {
    make_batch(trunk, plan);
    if (config.mla.heads) cut_latent_blocks(config.mla, plan, trunk.blocks);
    device->begin(trunk.batch);
    std::mt19937 random;
    std::uniform_real_distribution<float> uniform(-2.0f, 2.0f);
    std::vector<bf16> row(static_cast<size_t>(config.hidden));
    for (int r = 0; r < trunk.batch.rows(); ++r) {
      random.seed(static_cast<unsigned>(trunk.batch.positions[r]));
      for (bf16& x : row) x = to_bf16(uniform(random));
      device->write(trunk.step.h.row(r), row.data(), row.size() * sizeof(bf16));
      device->clear(trunk.step.y.row(r), static_cast<size_t>(trunk.step.y.ld) * sizeof(double));
    }
  }
  std::vector<double> input(int row) const { return doubles(trunk.step.h.row(row), config.hidden); }
  static std::vector<double> doubles(const bf16* x, int64_t n) {
    std::vector<double> out;
    for (int64_t i = 0; i < n; ++i) out.push_back(to_float(x[i]));
    return out;
  }

  ModelConfig config;
  Arch arch;
  TrunkLimits limits;
  ThreadPool pool;
  std::unique_ptr<Device> cpu;  // of the bank, where the trunk's device is another
  std::unique_ptr<Device> device;
  std::vector<std::unique_ptr<Transport>> alone = make_local_transports(1);
  Transport& transport;
  Topology topology;
  TrunkDispatch* dispatch;
  std::unique_ptr<Checkpoint> checkpoint = dummy_checkpoint({});
  TrunkShare share = trunk_share(config, 0, 1);
  TrunkWeights weights = load_trunk(*checkpoint, arch, config, share, *device);
  StateCache cache{config, share, {.blocks = kBlocks, .slots = 2, .snapshots = 2}, *device};
  std::unique_ptr<ExpertBank> bank = load_bank();
  Trunk trunk = make_trunk(transport, topology, *device, *checkpoint, config, share, weights, bank.get(), cache, limits,
                           {}, dispatch);

 private:
  static TrunkLimits with_sizes(TrunkLimits limits, const TestDevice& on) {
    limits.device = on.kind;
    limits.max_rows = 4096;
    limits.max_logit_rows = 4;
    limits.context = kBlocks * kBlockTokens;
    return limits;
  }
  std::unique_ptr<ExpertBank> load_bank() {
    if (!config.moe.experts || topology.expert_index() < 0) return nullptr;
    Device& on = limits.device == &cpu_kind() ? *device : *cpu;
    auto loaded = std::make_unique<ExpertBank>(
        load_experts({.checkpoint = checkpoint.get(), .arch = &arch}, config, Range{0, config.moe.inter}, on));
    on.reserve(bank_shape(config, Range{0, config.moe.inter}, loaded->format, limits.max_rows));
    return loaded;
  }
};

// Output o and input i of a bf16 matrix; and all outputs of some inputs in float64.
inline double weight(const PackedMatrix& w, int o, int i) {
  const std::byte* tile = w.panel(o / kPanel) + static_cast<int64_t>(i / kTileK) * kPanel * kTileK * sizeof(bf16);
  return Bf16Format::weight(tile, o % kPanel, i % kTileK);
}
inline std::vector<double> product(const PackedMatrix& w, const std::vector<double>& x) {
  std::vector<double> y(static_cast<size_t>(w.n));
  for (int o = 0; o < w.n; ++o)
    for (int i = 0; i < w.k; ++i) y[o] += weight(w, o, i) * x[i];
  return y;
}

}  // namespace kt
