#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "kernels/thread_pool.h"
#include "kernels/weight.h"
#include "runtime/checkpoint/mapped_file.h"

namespace kt {

// A folder of routed experts that `ktmpi convert` has packed: manifest.json, and for every MoE layer N one safetensors
// file layer-0000N.safetensors. A file holds, expert after expert, the two packed matrices of kernels/weight.h as U8
// tensors (panels, panel bytes),
//   experts.E.gate_up   panel 2p is the gate's, 2p + 1 the up's outputs [16p, 16p + 16); pairs padded to an even number
//   experts.E.down      of all intermediate columns
// and, last, `checksums`, U64 (experts, slices): that of an expert's columns [s * slice, (s + 1) * slice) is over their
// panels of gate_up, then of every panel of down their tiles and their scales, with the panel's padding for the last
// slice. So whoever takes some columns verifies just the bytes that it takes. The manifest has the checksum of each
// file's table and is written after the file: what it does not name is not there.

// Sizes of one expert's two matrices; the same for all experts of a folder.
struct PackedShape {
  PackedMatrix gate_up, down;  // without data
  int inter = 0, slice = 0;    // intermediate columns; columns that have a checksum, a multiple of 32

  int slices() const { return static_cast<int>(ceil_div(inter, slice)); }
  size_t bytes() const { return gate_up.bytes() + down.bytes(); }
  // Of `expert`: gate_up, then down.
  uint64_t checksum(const std::byte* expert, int slice_index) const;
};
// Where an expert of that shape begins: its columns' panels of gate_up, and of down.
struct ExpertBytes {
  std::byte* gate_up = nullptr;
  std::byte* down = nullptr;
};
// Copies columns [first, first + count) of an expert as columns [to_first, to_first + count) of another of the same
// format, hidden size and slice. Each run begins at a multiple of the slice and ends at one or at the expert's end. The
// padding of down's panels is left as it is.
void copy_columns(const PackedShape& from, const std::byte* gate_up, const std::byte* down, int first, int count,
                  const PackedShape& to, ExpertBytes expert, int to_first);

// Scales per 128 inputs, or per slice where that is less.
PackedShape packed_shape(Format format, int hidden, int inter, int slice);

struct PackedManifest {
  Format format = Format::AMXINT4;
  std::string architecture;  // of the source
  std::string fingerprint;   // of the source, see fingerprint.h
  int hidden = 0, inter = 0, slice = 0, experts = 0;
  std::vector<int> layers;  // that have experts, ascending
  struct File {
    uint64_t bytes = 0, checksum = 0;
    bool operator==(const File&) const = default;
  };
  std::map<int, File> files;  // of the layers that are done

  bool complete() const { return files.size() == layers.size(); }
  PackedShape shape() const { return packed_shape(format, hidden, inter, slice); }
  // The same conversion, however far it is.
  bool same_conversion(const PackedManifest& other) const;
};

// nullopt when the folder has no manifest.json; throws Error(kExitModel) when it is not one of ours or inconsistent.
std::optional<PackedManifest> read_manifest(const std::filesystem::path& folder);
void write_manifest(const std::filesystem::path& folder, const PackedManifest& manifest);

std::filesystem::path layer_file(const std::filesystem::path& folder, int layer);

// Writes one layer under a temporary name, to disk, and then renames it. `make(expert, out)` packs an expert and is
// called by the pool's threads, which hold one expert each. What it throws is thrown here.
PackedManifest::File write_layer(const std::filesystem::path& folder, const PackedManifest& manifest, int layer,
                                 ThreadPool& pool, const std::function<void(int, std::byte*)>& make);

// A layer's file, mapped. Opening checks everything but the experts' bytes: sizes, shapes, the table of checksums.
// Failures are Error(kExitModel) with the file and the layer, and the expert where there is one.
class PackedLayer {
 public:
  PackedLayer(const std::filesystem::path& folder, const PackedManifest& manifest, int layer);

  const std::byte* expert(int e) const;  // gate_up, then down; 64-byte aligned, not verified
  void verify(int expert, int first_column, int columns) const;
  // Columns [first, first + count), a multiple of the slice or to the end, as matrices of their own: packed_shape() of
  // `count` columns has their sizes. Verifies what it copies.
  void copy(int expert, int first, int count, std::byte* gate_up, std::byte* down) const;

 private:
  std::string where_;
  PackedShape shape_;
  MappedFile file_;
  const std::byte* experts_ = nullptr;
  const std::byte* checksums_ = nullptr;
};

// Whether a folder holds CPU weights that KTransformers converted: _layer_N/_numa_R/*.kt, or shards of
// blk.N.ffn_*_exps.E.numa.R.
bool converted_by_ktransformers(const std::filesystem::path& folder);

}  // namespace kt
