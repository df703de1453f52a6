#include "runtime/checkpoint/packed.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "runtime/base/error.h"
#include "runtime/checkpoint/checksum.h"
#include "runtime/checkpoint/header.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kDamaged = "the file is damaged; remove it and run the same `ktmpi convert` again";

// What a run of an expert's columns takes of each panel of `down`.
struct DownPart {
  size_t tiles_at, tile_bytes, scales_at, scale_bytes;
};
DownPart down_part(const PackedMatrix& down, int first, int count) {
  const FormatInfo& format = info(down.format);
  const int tile = first / kTileK, end_tile = static_cast<int>(ceil_div(first + count, kTileK));
  const int group = down.group_tiles ? tile / down.group_tiles : 0;
  const int end_group = down.group_tiles ? static_cast<int>(ceil_div(end_tile, down.group_tiles)) : 0;
  return {static_cast<size_t>(tile) * format.tile_bytes, static_cast<size_t>(end_tile - tile) * format.tile_bytes,
          down.scales_at() + static_cast<size_t>(group) * format.scale_bytes,
          static_cast<size_t>(end_group - group) * format.scale_bytes};
}

// What follows the scales in each panel of down.
void clear_padding(const PackedShape& shape, std::byte* down) {
  const PackedMatrix& m = shape.down;
  const size_t end = m.scales_at() + static_cast<size_t>(m.groups()) * info(m.format).scale_bytes;
  for (int p = 0; p < m.panels(); ++p, down += m.panel_bytes()) std::memset(down + end, 0, m.panel_bytes() - end);
}

// The panels of gate_up that hold a run of columns; the last column's run takes the padding along.
std::span<const std::byte> gate_up_part(const PackedShape& shape, const std::byte* expert, int first, int count) {
  const size_t begin = static_cast<size_t>(2 * first / kPanel) * shape.gate_up.panel_bytes();
  const size_t end = first + count == shape.inter
                         ? shape.gate_up.bytes()
                         : static_cast<size_t>(2 * (first + count) / kPanel) * shape.gate_up.panel_bytes();
  return {expert + begin, end - begin};
}

}  // namespace

PackedShape packed_shape(Format format, int hidden, int inter, int slice) {
  const int most = info(format).max_group_tiles;
  return {.gate_up = {.format = format,
                      .n = static_cast<int>(2 * round_up(inter, 2 * kPanel)),
                      .k = hidden,
                      .group_tiles = most},
          .down = {.format = format, .n = hidden, .k = inter, .group_tiles = std::min(most, slice / kTileK)},
          .inter = inter,
          .slice = slice};
}

void copy_columns(const PackedShape& from, const std::byte* gate_up, const std::byte* down, int first, int count,
                  const PackedShape& to, ExpertBytes expert, int to_first) {
  const auto rows = gate_up_part(from, gate_up, first, count);
  std::memcpy(expert.gate_up + static_cast<size_t>(2 * to_first / kPanel) * to.gate_up.panel_bytes(), rows.data(),
              rows.size());
  const DownPart part = down_part(from.down, first, count), place = down_part(to.down, to_first, count);
  const std::byte* panel = down;
  std::byte* out = expert.down;
  for (int p = 0; p < to.down.panels(); ++p, panel += from.down.panel_bytes(), out += to.down.panel_bytes()) {
    std::memcpy(out + place.tiles_at, panel + part.tiles_at, part.tile_bytes);
    std::memcpy(out + place.scales_at, panel + part.scales_at, part.scale_bytes);
  }
}

uint64_t PackedShape::checksum(const std::byte* expert, int slice_index) const {
  const int first = slice_index * slice, count = std::min(slice, inter - first);
  Checksum sum;
  sum.update(gate_up_part(*this, expert, first, count));
  DownPart part = down_part(down, first, count);
  if (first + count == inter) part.scale_bytes = down.panel_bytes() - part.scales_at;
  const std::byte* panel = expert + gate_up.bytes();
  for (int p = 0; p < down.panels(); ++p, panel += down.panel_bytes()) {
    sum.update({panel + part.tiles_at, part.tile_bytes});
    sum.update({panel + part.scales_at, part.scale_bytes});
  }
  return sum.value();
}

PackedLayer::PackedLayer(const fs::path& folder, const PackedManifest& manifest, int layer)
    : where_(fmt::format("{}: layer {}", layer_file(folder, layer).string(), layer)),
      shape_(manifest.shape()),
      file_(layer_file(folder, layer)) {
  const auto known = manifest.files.find(layer);
  if (known == manifest.files.end()) fail(kExitModel, "{}: not converted yet", where_);
  if (file_.bytes().size() != known->second.bytes)
    fail(kExitModel, "{}: expected {} bytes, found {}: {}", where_, known->second.bytes, file_.bytes().size(),
         kDamaged);
  const auto tensors = parse_header(file_.bytes(), where_);
  if (tensors.size() != static_cast<size_t>(2 * manifest.experts + 1))
    fail(kExitModel, "{}: expected {} tensors, found {}: {}", where_, 2 * manifest.experts + 1, tensors.size(),
         kDamaged);
  auto require = [&](size_t i, const std::string& name, StoredType type, std::vector<int64_t> shape) {
    const auto& [found, tensor] = tensors[i];
    if (found != name || tensor.type != type || tensor.shape != shape)
      fail(kExitModel, "{}: tensor {} is not {} of the manifest's shape: {}", where_, found, name, kDamaged);
    return tensor.bytes.data();
  };
  for (int e = 0; e < manifest.experts; ++e)
    for (const PackedMatrix* m : {&shape_.gate_up, &shape_.down}) {
      const bool is_down = m == &shape_.down;
      const std::byte* data =
          require(static_cast<size_t>(2 * e + is_down), fmt::format("experts.{}.{}", e, is_down ? "down" : "gate_up"),
                  StoredType::u8, {m->panels(), static_cast<int64_t>(m->panel_bytes())});
      if (!experts_) experts_ = data;
    }
  checksums_ = require(tensors.size() - 1, "checksums", StoredType::u64, {manifest.experts, shape_.slices()});
  if (reinterpret_cast<uintptr_t>(experts_) % 64) fail(kExitModel, "{}: not aligned to 64 bytes: {}", where_, kDamaged);
  Checksum table;
  table.update({checksums_, static_cast<size_t>(manifest.experts) * shape_.slices() * sizeof(uint64_t)});
  if (table.value() != known->second.checksum)
    fail(kExitModel, "{}: the table of checksums is not the manifest's: {}", where_, kDamaged);
}

const std::byte* PackedLayer::expert(int e) const { return experts_ + static_cast<size_t>(e) * shape_.bytes(); }

void PackedLayer::verify(int e, int first, int count) const {
  for (int s = first / shape_.slice; s * shape_.slice < first + count; ++s) {
    uint64_t expected;
    std::memcpy(&expected, checksums_ + (static_cast<size_t>(e) * shape_.slices() + s) * sizeof expected,
                sizeof expected);
    if (shape_.checksum(expert(e), s) != expected)
      fail(kExitModel, "{}, expert {}: columns {} to {} do not have their checksum: {}", where_, e, s * shape_.slice,
           std::min((s + 1) * shape_.slice, shape_.inter), kDamaged);
  }
}

void PackedLayer::copy(int e, int first, int count, std::byte* gate_up, std::byte* down) const {
  verify(e, first, count);
  PackedShape to = packed_shape(shape_.down.format, shape_.down.n, count, shape_.slice);
  clear_padding(to, down);
  copy_columns(shape_, expert(e), expert(e) + shape_.gate_up.bytes(), first, count, to, {gate_up, down}, 0);
}

bool converted_by_ktransformers(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().filename().string().starts_with("_layer_")) return true;
  const fs::path index = folder / "model.safetensors.index.json";
  if (!fs::is_regular_file(index, error)) return false;
  const MappedFile file(index);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return text.find("_exps.") != text.npos && text.find(".numa.") != text.npos;
}

}  // namespace kt
