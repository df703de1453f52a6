#include "runtime/model/bank.h"

#include <algorithm>
#include <functional>

#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/base/progress.h"
#include "runtime/model/expert_tensors.h"
#include "runtime/model/quantize.h"

namespace kt {
namespace {

std::string what_of(const ModelConfig& config, Format format, Range columns) {
  return fmt::format("{} experts, columns {}-{} of {}", info(format).name, columns.begin, columns.end,
                     config.moe.inter);
}

// A checkpoint's own format, or generated.
void load_stored(ExpertBank& bank, const ExpertSource& source, const ModelConfig& config, ThreadPool& pool,
                 int numa_node) {
  Packing packing(*source.checkpoint, source.quant);
  auto expert = bank.experts.begin();
  const auto take = [&](RowRun run) {
    run.first += bank.columns.begin;
    run.count = bank.columns.size();
    return run;
  };
  for (size_t layer = 0; layer < config.layers.size(); ++layer)
    for (int e = 0; bank.moe_index[layer] >= 0 && e < config.moe.experts; ++e, ++expert) {
      const ExpertRows rows = expert_rows(*source.checkpoint, *source.arch, config, static_cast<int>(layer), e);
      expert->columns = bank.columns.size();
      packing.add_pair(&expert->gate_up, take(rows.gate), take(rows.up));
      packing.add(&expert->down, {rows.down}, bank.columns.begin, bank.columns.size(), slice_width(config.moe.inter));
    }
  bank.storage = packing.load(pool, numa_node, what_of(config, bank.format, bank.columns));
}

// Takes the memory, and fills it layer by layer: open(layer) returns what makes one expert at gate_up and down.
using MakeExpert = std::function<void(int expert, std::byte* gate_up, std::byte* down)>;
void load_packed(ExpertBank& bank, const ModelConfig& config, ThreadPool& pool, int numa_node,
                 const std::function<MakeExpert(int layer)>& open) {
  const PackedShape shape = expert_shape(config, bank.format, bank.columns.size());
  bank.storage = Buffer(bank.experts.size() * shape.bytes(), numa_node, pool);
  const std::string what = what_of(config, bank.format, bank.columns);
  Progress progress("loading " + what, "loaded " + what, bank.storage.size());
  for (size_t i = 0; i < bank.experts.size(); ++i) {
    const std::byte* at = bank.storage.bytes() + i * shape.bytes();
    bank.experts[i] = {.gate_up = shape.gate_up, .down = shape.down, .columns = bank.columns.size()};
    bank.experts[i].gate_up.data = at;
    bank.experts[i].down.data = at + shape.gate_up.bytes();
  }
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    if (bank.moe_index[layer] < 0) continue;
    const MakeExpert make = open(static_cast<int>(layer));
    std::byte* experts =
        bank.storage.bytes() + static_cast<size_t>(bank.moe_index[layer]) * config.moe.experts * shape.bytes();
    FirstError error;
    pool.run(config.moe.experts, [&](int64_t e) {
      error.guard([&] {
        std::byte* at = experts + static_cast<size_t>(e) * shape.bytes();
        make(static_cast<int>(e), at, at + shape.gate_up.bytes());
        progress.add(shape.bytes());
      });
    });
    error.rethrow();
  }
  progress.finish();
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
  if (format == Format::FP8)
    for (PackedMatrix* m : {&shape.gate_up, &shape.down})
      m->group_tiles = std::min(m->group_tiles, config.quant.block_columns / kTileK);
  return shape;
}

size_t expert_bytes(const ModelConfig& config, Format format, int columns) {
  return columns ? expert_shape(config, format, columns).bytes() : 0;
}

size_t bank_bytes(const ModelConfig& config, Format format, int columns) {
  const auto layers =
      std::count_if(config.layers.begin(), config.layers.end(), [](LayerSpec l) { return l.ffn == Ffn::moe; });
  return static_cast<size_t>(layers) * config.moe.experts * expert_bytes(config, format, columns);
}

ExpertBank load_experts(const ExpertSource& source, const ModelConfig& config, Range columns, ThreadPool& pool,
                        int numa_node) {
  ExpertBank bank;
  bank.format = source.format;
  bank.columns = columns;
  int moe_layers = 0;
  for (LayerSpec l : config.layers) bank.moe_index.push_back(l.ffn == Ffn::moe ? moe_layers++ : -1);
  bank.experts.resize(static_cast<size_t>(moe_layers) * config.moe.experts);
  if (!columns.size()) return bank;
  if (source.packed)
    load_packed(bank, config, pool, numa_node, [&](int layer) { return copy_experts(source, layer, columns); });
  else if (info(source.format).int8_activations)
    load_packed(bank, config, pool, numa_node,
                [&](int layer) { return quantize_experts(source, config, layer, columns); });
  else
    load_stored(bank, source, config, pool, numa_node);
  return bank;
}

}  // namespace kt
