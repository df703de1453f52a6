#include "runtime/model/experts/bank.h"

#include <algorithm>
#include <functional>

#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/base/progress.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/quantize.h"

namespace kt {
namespace {

std::string what_of(const ModelConfig& config, const ExpertBank& bank) {
  const ExpertShare& s = bank.share;
  const std::string columns = fmt::format("columns {}-{} of {}", s.columns.begin, s.columns.end, config.moe.inter);
  if (s.groups == 1) return fmt::format("{} experts, {}", info(bank.format).name, columns);
  size_t copies = 0;
  for (const auto& layer : s.copies) copies += layer.size();
  return fmt::format("{} of {} {} experts{}, {}", s.count(config.moe.experts), config.moe.experts,
                     info(bank.format).name, copies ? fmt::format(" and {} copies", copies) : "", columns);
}

void require_format(const FfnWeights& expert, Format format, int layer, int e) {
  for (const PackedMatrix* w : {&expert.gate_up, &expert.down})
    if (w->format != format)
      fail(kExitModel, "layer {}, expert {}: stored as {}, expected {} as in the first layer with experts", layer, e,
           info(w->format).name, info(format).name);
}

void add_expert(Packing& packing, const ExpertSource& source, const ModelConfig& config, int layer, int e,
                Range columns, FfnWeights& expert) {
  const auto take = [&](RowRun run) {
    run.first += columns.begin;
    run.count = columns.size();
    return run;
  };
  const ExpertRows rows = expert_rows(*source.checkpoint, *source.arch, config, layer, e);
  expert.columns = columns.size();
  packing.add_pair(&expert.gate_up, take(rows.gate), take(rows.up));
  packing.add(&expert.down, {rows.down}, columns.begin, columns.size(), slice_width(config.moe.inter));
}

// Where experts will lie and what of them, without their data.
ExpertBank empty_bank(const ExpertSource& source, const ModelConfig& config, const ExpertShare& share) {
  ExpertBank bank;
  bank.format = source.format;
  bank.share = share;
  bank.moe_index = moe_indices(config);
  bank.experts.resize(static_cast<size_t>(moe_layer_count(config)) * config.moe.experts);
  return bank;
}

// A checkpoint's own format, or generated.
Packing plan_stored(ExpertBank& bank, const ExpertSource& source, const ModelConfig& config) {
  Packing packing(*source.checkpoint, source.quant);
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    if (bank.moe_index[static_cast<size_t>(layer)] < 0) continue;
    for (int32_t e : bank.share.held(layer, config.moe.experts)) {
      FfnWeights& w = bank.at(layer, e, config.moe.experts);
      add_expert(packing, source, config, layer, e, bank.share.columns, w);
      require_format(w, source.format, layer, e);
    }
  }
  return packing;
}

bool is_stored(const ExpertSource& source) { return !source.packed && !info(source.format).int8_activations; }

// All experts as they lie in the storage, one after the other, whatever they were made of.
void set_views(ExpertBank& bank, const ModelConfig& config) {
  const PackedShape shape = expert_shape(config, bank.format, bank.share.columns.size());
  std::byte* next = bank.storage.bytes();
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    if (bank.moe_index[static_cast<size_t>(layer)] < 0) continue;
    for (int32_t e : bank.share.held(layer, config.moe.experts)) {
      FfnWeights& w = bank.at(layer, e, config.moe.experts);
      w = {.gate_up = shape.gate_up, .down = shape.down, .columns = bank.share.columns.size()};
      w.gate_up.data = next;
      w.down.data = next + shape.gate_up.bytes();
      next += shape.bytes();
    }
  }
}

// Fills the storage layer by layer: open(layer) returns what makes one expert at gate_up and down.
using MakeExpert = std::function<void(int expert, std::byte* gate_up, std::byte* down)>;
void load_packed(const ExpertBank& bank, const ModelConfig& config, Device& device,
                 const std::function<MakeExpert(int layer)>& open) {
  const PackedShape shape = expert_shape(config, bank.format, bank.share.columns.size());
  const std::string what = what_of(config, bank);
  Progress progress("loading " + what, "loaded " + what, bank.storage.size(), LogLevel::debug);
  std::byte* next = bank.storage.bytes();
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    if (bank.moe_index[static_cast<size_t>(layer)] < 0) continue;
    const MakeExpert make = open(layer);
    const std::vector<int32_t> held = bank.share.held(layer, config.moe.experts);
    FirstError error;
    device.host_threads().run(static_cast<int64_t>(held.size()), [&](int64_t i) {
      error.guard([&] {
        const int32_t e = held[static_cast<size_t>(i)];
        std::byte* at = next + static_cast<size_t>(i) * shape.bytes();
        make(e, at, at + shape.gate_up.bytes());
        progress.add(shape.bytes());
      });
    });
    error.rethrow();
    next += held.size() * shape.bytes();
  }
  progress.finish();
}

void tell_kept(const std::string& what, size_t bytes) {
  Progress("finding " + what, "", bytes).add(bytes);
  log("{}: {:.2f} GB were kept from an earlier start", what, static_cast<double>(bytes) / 1e9);
}

// A converted folder.
MakeExpert copy_experts(const ExpertSource& source, int layer, Range columns) {
  const auto file = std::make_shared<PackedLayer>(source.packed_folder, *source.packed, layer);
  return [file, columns](int e, std::byte* gate_up, std::byte* down) {
    file->copy(e, columns.begin, columns.size(), gate_up, down);
  };
}

// Generated values, quantised on the way.
MakeExpert quantize_experts(const ExpertSource& source, const ModelConfig& config, int layer, Range columns) {
  const PackedShape shape = expert_shape(config, source.format, columns.size());
  return [&source, &config, shape, layer, columns](int e, std::byte* gate_up, std::byte*) {
    const ExpertRows rows = expert_rows(*source.checkpoint, *source.arch, config, layer, e);
    const FloatRows gate(*source.checkpoint, source.quant, rows.gate);
    const FloatRows up(*source.checkpoint, source.quant, rows.up);
    const FloatRows down(*source.checkpoint, source.quant, rows.down);
    quantize_expert(gate, up, down, columns, shape, gate_up);
  };
}

}  // namespace

PackedShape expert_shape(const ModelConfig& config, Format format, int columns) {
  PackedShape shape = packed_shape(format, config.hidden, columns, slice_width(config.moe.inter));
  shape.gate_up.group_tiles = group_tiles(format, config.quant, 0);
  shape.down.group_tiles = group_tiles(format, config.quant, slice_width(config.moe.inter));
  return shape;
}

size_t expert_bytes(const ModelConfig& config, Format format, int columns) {
  return columns ? expert_shape(config, format, columns).bytes() : 0;
}

std::vector<int> moe_indices(const ModelConfig& config) {
  std::vector<int> indices;
  int next = 0;
  for (LayerSpec l : config.layers) indices.push_back(l.ffn == Ffn::moe ? next++ : -1);
  return indices;
}
int moe_layer_count(const ModelConfig& config) {
  return static_cast<int>(
      std::count_if(config.layers.begin(), config.layers.end(), [](LayerSpec l) { return l.ffn == Ffn::moe; }));
}

size_t bank_bytes(const ModelConfig& config, Format format, const ExpertShare& share) {
  size_t experts = 0;
  for (size_t layer = 0; layer < config.layers.size(); ++layer)
    if (config.layers[layer].ffn == Ffn::moe) experts += share.held(static_cast<int>(layer), config.moe.experts).size();
  return experts * expert_bytes(config, format, share.columns.size());
}

ExpertBank load_experts(const ExpertSource& source, const ModelConfig& config, ExpertShare share, Device& device,
                        KeptBank* kept, int numa_node) {
  ExpertBank bank = empty_bank(source, config, share);
  bank.device = &device;
  const Range columns = share.columns;
  if (!share.count(config.moe.experts)) return bank;
  check_experts(source, config, share);
  const size_t bytes = bank_bytes(config, bank.format, share);
  bank.storage = kept ? kept->memory(numa_node, device.host_threads()) : device.take(bytes);
  if (kept && kept->filled())
    tell_kept(what_of(config, bank), bytes);
  else if (is_stored(source))
    plan_stored(bank, source, config).load_into(bank.storage, device, what_of(config, bank));
  else if (source.packed)
    load_packed(bank, config, device, [&](int layer) { return copy_experts(source, layer, columns); });
  else
    load_packed(bank, config, device, [&](int layer) { return quantize_experts(source, config, layer, columns); });
  set_views(bank, config);
  if (kept) kept->publish(bank.storage);
  return bank;
}

void check_experts(const ExpertSource& source, const ModelConfig& config, const ExpertShare& share) {
  if (!is_stored(source) || !share.count(config.moe.experts)) return;
  ExpertBank bank = empty_bank(source, config, share);
  plan_stored(bank, source, config).check();
}

void load_expert(const ExpertSource& source, const ModelConfig& config, int layer, int expert, Range columns,
                 std::byte* memory, ThreadPool& pool) {
  Packing packing(*source.checkpoint, source.quant);
  FfnWeights weights;
  add_expert(packing, source, config, layer, expert, columns, weights);
  require_format(weights, source.format, layer, expert);
  packing.load_into(memory, pool);
}

}  // namespace kt
