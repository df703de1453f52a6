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
  const std::string columns =
      s.parts() == 1 ? fmt::format("columns {}-{} of {}", s.pieces[0].begin, s.pieces[0].end, config.moe.inter)
                     : fmt::format("{} of {} columns in {} pieces", s.columns(), config.moe.inter, s.parts());
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
  bank.experts.resize(static_cast<size_t>(moe_layer_count(config)) * config.moe.experts * share.pieces.size());
  return bank;
}

// A checkpoint's own format, or generated.
Packing plan_stored(ExpertBank& bank, const ExpertSource& source, const ModelConfig& config) {
  Packing packing(*source.checkpoint, source.quant);
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    if (bank.moe_index[static_cast<size_t>(layer)] < 0) continue;
    for (int32_t e : bank.share.held(layer, config.moe.experts))
      for (int p = 0; p < bank.share.parts(); ++p) {
        const Range piece = bank.share.pieces[static_cast<size_t>(p)];
        if (!piece.size()) continue;
        FfnWeights& w = bank.at(layer, e, config.moe.experts, p);
        add_expert(packing, source, config, layer, e, piece, w);
        require_format(w, source.format, layer, e);
      }
  }
  return packing;
}

bool is_stored(const ExpertSource& source) { return !source.packed && !info(source.format).int8_activations; }

// All experts as they lie in the storage, one after the other, whatever they were made of.
void set_views(ExpertBank& bank, const ModelConfig& config) {
  std::byte* next = bank.storage.bytes();
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer) {
    if (bank.moe_index[static_cast<size_t>(layer)] < 0) continue;
    for (int32_t e : bank.share.held(layer, config.moe.experts))
      for (int p = 0; p < bank.share.parts(); ++p) {
        const int columns = bank.share.pieces[static_cast<size_t>(p)].size();
        if (!columns) continue;
        const PackedShape shape = expert_shape(config, bank.format, columns);
        FfnWeights& w = bank.at(layer, e, config.moe.experts, p);
        w = {.gate_up = shape.gate_up, .down = shape.down, .columns = columns};
        w.gate_up.data = next;
        w.down.data = next + shape.gate_up.bytes();
        next += shape.bytes();
      }
  }
}

// Fills the storage layer by layer: open(layer) returns what makes some columns of one expert at `memory`.
using MakeExpert = std::function<void(int expert, Range columns, const PackedShape& shape, std::byte* memory)>;
void load_packed(const ExpertBank& bank, const ModelConfig& config, Device& device,
                 const std::function<MakeExpert(int layer)>& open) {
  const size_t bytes = expert_bytes(config, bank.format, bank.share);
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
        std::byte* at = next + static_cast<size_t>(i) * bytes;
        for (const Range piece : bank.share.pieces) {
          if (!piece.size()) continue;
          const PackedShape shape = expert_shape(config, bank.format, piece.size());
          make(held[static_cast<size_t>(i)], piece, shape, at);
          at += shape.bytes();
        }
        progress.add(bytes);
      });
    });
    error.rethrow();
    next += held.size() * bytes;
  }
  progress.finish();
}

void tell_kept(const std::string& what, size_t bytes) {
  Progress("finding " + what, "", bytes).add(bytes);
  log("{}: {:.2f} GB were kept from an earlier start", what, static_cast<double>(bytes) / 1e9);
}

// A converted folder.
MakeExpert copy_experts(const ExpertSource& source, int layer) {
  const auto file = std::make_shared<PackedLayer>(source.packed_folder, *source.packed, layer);
  return [file](int e, Range columns, const PackedShape& shape, std::byte* memory) {
    file->copy(e, columns.begin, columns.size(), memory, memory + shape.gate_up.bytes());
  };
}

// Generated values, quantised on the way.
MakeExpert quantize_experts(const ExpertSource& source, const ModelConfig& config, int layer) {
  return [&source, &config, layer](int e, Range columns, const PackedShape& shape, std::byte* memory) {
    const ExpertRows rows = expert_rows(*source.checkpoint, *source.arch, config, layer, e);
    const FloatRows gate(*source.checkpoint, source.quant, rows.gate);
    const FloatRows up(*source.checkpoint, source.quant, rows.up);
    const FloatRows down(*source.checkpoint, source.quant, rows.down);
    quantize_expert(gate, up, down, columns, shape, memory);
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

size_t expert_bytes(const ModelConfig& config, Format format, const ExpertShare& share) {
  size_t bytes = 0;
  for (const Range piece : share.pieces) bytes += expert_bytes(config, format, piece.size());
  return bytes;
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
  return experts * expert_bytes(config, format, share);
}

ExpertBank load_experts(const ExpertSource& source, const ModelConfig& config, ExpertShare share, Device& device,
                        KeptBank* kept, int numa_node) {
  ExpertBank bank = empty_bank(source, config, share);
  bank.device = &device;
  if (!share.count(config.moe.experts)) return bank;
  check_experts(source, config, share);
  const size_t bytes = bank_bytes(config, bank.format, share);
  bank.storage = kept ? kept->memory(numa_node, device.host_threads()) : device.take(bytes);
  if (kept && kept->filled())
    tell_kept(what_of(config, bank), bytes);
  else if (is_stored(source))
    plan_stored(bank, source, config).load_into(bank.storage, device, what_of(config, bank));
  else if (source.packed)
    load_packed(bank, config, device, [&](int layer) { return copy_experts(source, layer); });
  else
    load_packed(bank, config, device, [&](int layer) { return quantize_experts(source, config, layer); });
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
