#include "runtime/weights/mla_weights.h"

#include <algorithm>

#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/weights/floats.h"

namespace kt {
namespace {

PackedMatrix key_up_shape(const MlaSpec& m) { return {.n = m.kv_rank, .k = m.nope_dim}; }
PackedMatrix value_up_shape(const MlaSpec& m) { return {.n = m.value_dim, .k = m.kv_rank}; }
size_t head_bytes(const MlaSpec& m) { return key_up_shape(m).bytes() + value_up_shape(m).bytes(); }

// Rows [first, first + count) of a (rows, columns) matrix as bf16: stored so, rounded from F32 or F16, or E4M3 with
// block scales.
std::vector<bf16> read_matrix(const Checkpoint& checkpoint, const QuantSpec& quant, const std::string& name,
                              int64_t rows, int64_t columns, int64_t first, int64_t count) {
  std::vector<std::byte> scratch;
  const std::vector<int64_t> shape{rows, columns};
  const StoredRows stored = checkpoint.rows(name, shape, first, count, scratch);
  std::vector<bf16> out(static_cast<size_t>(count * columns));
  if (stored.type != StoredType::f8_e4m3) {
    require_floats(stored.type, name);
    to_bf16_rounded(stored.type, stored.bytes.data(), count * columns, out.data());
    return out;
  }
  const std::vector<float> scales = read_floats(checkpoint, name + "_scale_inv", scale_shape(shape, quant));
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t row_of_scales = scale_row(shape, quant, first + r) * ceil_div(columns, quant.block_columns);
      const float scale = scales[static_cast<size_t>(row_of_scales + c / quant.block_columns)];
      const auto at = static_cast<size_t>(r * columns + c);
      out[at] = to_bf16(scale * Fp8Format::value(static_cast<uint8_t>(stored.bytes[at])));
    }
  return out;
}

// What read_matrix would refuse.
void check_kv_b(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name) {
  const MlaSpec& m = config.mla;
  read_matrix(checkpoint, config.quant, name, int64_t{m.heads} * (m.nope_dim + m.value_dim), m.kv_rank, 0, 0);
}

void pack(const std::vector<bf16>& rows, const PackedMatrix& shape, std::byte* to) {
  for (int p = 0; p < shape.panels(); ++p)
    Bf16Format::pack(&rows[static_cast<size_t>(p) * kPanel * shape.k], shape.k, std::min(kPanel, shape.n - p * kPanel),
                     shape.k, to + p * shape.panel_bytes());
}

// kv_b_proj has per head the key's rows, then the value's.
void pack_head(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name, int head,
               std::byte* to) {
  const MlaSpec& m = config.mla;
  const int64_t per_head = m.nope_dim + m.value_dim;
  const auto read = [&](int64_t offset, int64_t count) {
    return read_matrix(checkpoint, config.quant, name, m.heads * per_head, m.kv_rank, head * per_head + offset, count);
  };
  const std::vector<bf16> key = read(0, m.nope_dim);
  std::vector<bf16> transposed(key.size());
  for (int i = 0; i < m.nope_dim; ++i)
    for (int j = 0; j < m.kv_rank; ++j)
      transposed[static_cast<size_t>(j) * m.nope_dim + i] = key[static_cast<size_t>(i) * m.kv_rank + j];
  pack(transposed, key_up_shape(m), to);
  pack(read(m.nope_dim, m.value_dim), value_up_shape(m), to + key_up_shape(m).bytes());
}

}  // namespace

void add_mla(MlaWeights& w, const Checkpoint& checkpoint, const std::string& prefix, const ModelConfig& config,
             const TrunkShare& share, Packing& packing) {
  const MlaSpec& m = config.mla;
  const int64_t hidden = config.hidden;
  const auto rows = [&](const char* suffix, int64_t all, int64_t columns, Range part) {
    return std::vector<RowRun>{{prefix + suffix, {all, columns}, part.begin, part.size()}};
  };
  const auto whole = [](int n) { return Range{0, n}; };

  packing.add(&w.q_a, rows("q_a_proj.weight", m.q_rank, hidden, whole(m.q_rank)), 0, config.hidden);
  packing.add(&w.kv_a, rows("kv_a_proj_with_mqa.weight", m.cached_dim(), hidden, whole(m.cached_dim())), 0,
              config.hidden);
  packing.add(&w.q_b,
              rows("q_b_proj.weight", m.heads * m.head_dim(), m.q_rank,
                   {share.heads.begin * m.head_dim(), share.heads.end * m.head_dim()}),
              0, m.q_rank);
  packing.add(&w.out, rows("o_proj.weight", hidden, m.heads * m.value_dim, whole(config.hidden)),
              share.heads.begin * m.value_dim, share.heads.size() * m.value_dim, m.value_dim);
  check_kv_b(checkpoint, config, prefix + "kv_b_proj.weight");
  packing.add(&w.q_norm, read_floats(checkpoint, prefix + "q_a_layernorm.weight", {m.q_rank}));
  packing.add(&w.kv_norm, read_floats(checkpoint, prefix + "kv_a_layernorm.weight", {m.kv_rank}));
  if (!m.indexer) return;

  const IndexerSpec& index = *m.indexer;
  const int queries = index.heads * index.head_dim;
  packing.add(&w.index_q, rows("indexer.wq_b.weight", queries, m.q_rank, whole(queries)), 0, m.q_rank);
  packing.add(&w.index_k, rows("indexer.wk.weight", index.head_dim, hidden, whole(index.head_dim)), 0, config.hidden);
  packing.add(&w.index_weights, rows("indexer.weights_proj.weight", index.heads, hidden, whole(index.heads)), 0,
              config.hidden);
  packing.add(&w.index_norm, read_floats(checkpoint, prefix + "indexer.k_norm.weight", {index.head_dim}));
  packing.add(&w.index_bias, read_floats(checkpoint, prefix + "indexer.k_norm.bias", {index.head_dim}));
}

size_t absorbed_bytes(const MlaSpec& mla, const TrunkShare& share) {
  return static_cast<size_t>(share.heads.size()) * head_bytes(mla);
}

Buffer load_absorbed(std::span<const AbsorbedLayer> layers, const Checkpoint& checkpoint, const ModelConfig& config,
                     const TrunkShare& share, Device& device) {
  const MlaSpec& mla = config.mla;
  const int heads = share.heads.size();
  const size_t one = head_bytes(mla), all = layers.size() * static_cast<size_t>(heads);
  Buffer buffer = device.take(all * one);
  for (size_t first = 0, count; first < all; first += count) {
    const std::span<std::byte> window = device.window(buffer.bytes() + first * one, (all - first) * one);
    count = window.size() / one;
    if (!count) fail(kExitDevice, "loading kv_b_proj: a head's {} bytes do not fit into {}", one, window.size());
    FirstError error;
    device.host_threads().run(static_cast<int64_t>(count), [&](int64_t i) {
      error.guard([&] {
        const size_t layer = (first + static_cast<size_t>(i)) / static_cast<size_t>(heads),
                     head = (first + static_cast<size_t>(i)) % static_cast<size_t>(heads);
        pack_head(checkpoint, config, layers[layer].prefix + "kv_b_proj.weight",
                  share.heads.begin + static_cast<int>(head), window.data() + static_cast<size_t>(i) * one);
      });
    });
    error.rethrow();
    device.write(buffer.bytes() + first * one, window.data(), count * one);
  }

  const std::byte* at = buffer.bytes();
  for (const AbsorbedLayer& layer : layers)
    for (int h = 0; h < heads; ++h, at += head_bytes(mla)) {
      PackedMatrix key = key_up_shape(mla), value = value_up_shape(mla);
      key.data = at;
      value.data = at + key.bytes();
      layer.weights->key_up.push_back(key);
      layer.weights->value_up.push_back(value);
    }
  return buffer;
}

}  // namespace kt
