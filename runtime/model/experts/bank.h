#pragma once

#include <filesystem>
#include <vector>

#include "runtime/checkpoint/packed.h"
#include "runtime/model/experts/kept_bank.h"
#include "runtime/weights/weights.h"

namespace kt {

// Which MoE layer each layer is, or -1; and how many there are.
std::vector<int> moe_indices(const ModelConfig& config);
int moe_layer_count(const ModelConfig& config);

// This rank's share of the routed experts of all MoE layers. Experts that it does not hold are empty.
struct ExpertBank {
  Format format = Format::BF16;
  std::vector<FfnWeights> experts;  // [(moe layer * experts + expert) * share.parts() + piece]
  std::vector<int> moe_index;       // layer -> which MoE layer it is, or -1
  ExpertShare share;
  Device* device = nullptr;  // in whose memory they lie, and that computes them
  Buffer storage;

  const FfnWeights* layer(int layer, int experts_per_layer) const {
    return &experts[static_cast<size_t>(moe_index[layer]) * experts_per_layer * share.pieces.size()];
  }
  FfnWeights& at(int layer, int expert, int experts_per_layer, int piece) {
    return experts[(static_cast<size_t>(moe_index[layer]) * experts_per_layer + expert) * share.pieces.size() + piece];
  }
};

// Where experts come from, and the format that they have in memory.
struct ExpertSource {
  Format format = Format::BF16;
  QuantSpec quant;  // of the checkpoint; of a generated one, as `format` wants it

  const Checkpoint* checkpoint = nullptr;  // as stored, or generated in any format
  const Arch* arch = nullptr;

  std::filesystem::path packed_folder;  // or packed by `ktmpi convert`
  const PackedManifest* packed = nullptr;
};

// One expert's columns, as they lie in a bank: gate_up, then down.
PackedShape expert_shape(const ModelConfig& config, Format format, int columns);
// Bytes of one expert's columns, of all its pieces, and of a whole bank.
size_t expert_bytes(const ModelConfig& config, Format format, int columns);
size_t expert_bytes(const ModelConfig& config, Format format, const ExpertShare& share);
size_t bank_bytes(const ModelConfig& config, Format format, const ExpertShare& share);

// Throws what load_experts would for a tensor of the checkpoint of a wrong shape or type, without taking memory.
void check_experts(const ExpertSource& source, const ModelConfig& config, const ExpertShare& share);

// Loads this rank's part into the memory of a device that the host writes; throws Error(kExitModel) naming the tensor,
// or file, layer and expert. The result may be moved: views point into storage. With a kept bank into its memory on
// that NUMA node, or not at all, if it is filled.
ExpertBank load_experts(const ExpertSource& source, const ModelConfig& config, ExpertShare share, Device& device,
                        KeptBank* kept = nullptr, int numa_node = -1);

// Some columns of one expert of a checkpoint, not a packed one, to expert_bytes() bytes at `memory`; in the same
// layout, and with the same errors.
void load_expert(const ExpertSource& source, const ModelConfig& config, int layer, int expert, Range columns,
                 std::byte* memory, ThreadPool& pool);

}  // namespace kt
