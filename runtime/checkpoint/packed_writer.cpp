#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/checkpoint/checksum.h"
#include "runtime/checkpoint/durable_file.h"
#include "runtime/checkpoint/packed.h"

namespace kt {
namespace {

// Length and text of the header, filled up with spaces so that the data begin at a multiple of 64.
std::string header_bytes(const PackedManifest& manifest, const PackedShape& shape) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t at = 0;
  const auto add = [&](std::string name, const char* type, int64_t rows, int64_t columns, uint64_t bytes) {
    header[std::move(name)] = {{"dtype", type}, {"shape", {rows, columns}}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  };
  const auto add_matrix = [&](std::string name, const PackedMatrix& m) {
    add(std::move(name), "U8", m.panels(), static_cast<int64_t>(m.panel_bytes()), m.bytes());
  };
  for (int e = 0; e < manifest.experts; ++e) {
    add_matrix(fmt::format("experts.{}.gate_up", e), shape.gate_up);
    add_matrix(fmt::format("experts.{}.down", e), shape.down);
  }
  add("checksums", "U64", manifest.experts, shape.slices(),
      static_cast<uint64_t>(manifest.experts) * shape.slices() * sizeof(uint64_t));
  std::string text = header.dump();
  uint64_t length = static_cast<uint64_t>(round_up(static_cast<int64_t>(text.size()) + 8, 64)) - 8;
  text.resize(length, ' ');
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace

PackedManifest::File write_layer(const std::filesystem::path& folder, const PackedManifest& manifest, int layer,
                                 ThreadPool& pool, const std::function<void(int, std::byte*)>& make) {
  const PackedShape shape = manifest.shape();
  const std::string header = header_bytes(manifest, shape);
  const size_t slices = static_cast<size_t>(shape.slices());
  std::vector<uint64_t> checksums(static_cast<size_t>(manifest.experts) * slices);
  DurableFile file(layer_file(folder, layer));
  file.write(std::as_bytes(std::span(header)), 0);

  FirstError error;
  pool.run(manifest.experts, [&](int64_t e) {
    error.guard([&] {
      thread_local std::vector<std::byte> expert;
      expert.resize(shape.bytes());
      make(static_cast<int>(e), expert.data());
      for (size_t s = 0; s < slices; ++s)
        checksums[static_cast<size_t>(e) * slices + s] = shape.checksum(expert.data(), static_cast<int>(s));
      file.write(expert, header.size() + static_cast<size_t>(e) * shape.bytes());
    });
  });
  error.rethrow();

  const auto table = std::as_bytes(std::span(checksums));
  const size_t table_at = header.size() + static_cast<size_t>(manifest.experts) * shape.bytes();
  file.write(table, table_at);
  file.commit();
  Checksum sum;
  sum.update(table);
  return {.bytes = table_at + table.size(), .checksum = sum.value()};
}

}  // namespace kt
