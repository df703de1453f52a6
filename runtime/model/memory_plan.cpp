#include "runtime/model/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

namespace kt {
namespace {

size_t packed(int64_t n, int64_t k) {
  return n > 0 && k > 0 ? PackedMatrix{.n = static_cast<int>(n), .k = static_cast<int>(k)}.bytes() : 0;
}
size_t ffn_bytes(int hidden, int columns) {
  return packed(2 * round_up(columns, 2 * kPanel), hidden) + (columns ? packed(hidden, columns) : 0);
}

size_t trunk_bytes(const ModelConfig& c, const TrunkShare& s) {
  size_t bytes = packed(s.vocab.size(), c.hidden);
  for (LayerSpec l : c.layers) {
    if (l.mixer == Mixer::attention) {
      const AttentionSpec& a = c.attention;
      bytes += packed(((a.gated ? 2 : 1) * s.heads.size() + 2ll * s.kv_heads.size()) * a.head_dim, c.hidden);
      bytes += packed(c.hidden, static_cast<int64_t>(s.heads.size()) * a.head_dim);
    } else if (l.mixer == Mixer::mla) {
      const MlaSpec& m = c.mla;
      const int64_t heads = s.heads.size();
      bytes += packed(m.q_rank, c.hidden) + packed(heads * m.head_dim(), m.q_rank) + packed(m.cached_dim(), c.hidden) +
               packed(c.hidden, heads * m.value_dim) + absorbed_bytes(m, s);
      if (m.indexer)
        bytes += packed(m.indexer->heads * m.indexer->head_dim, m.q_rank) + packed(m.indexer->head_dim, c.hidden) +
                 packed(m.indexer->heads, c.hidden);
    } else {
      const int64_t keys = static_cast<int64_t>(s.key_heads.size()) * c.delta.key_dim;
      const int64_t values = static_cast<int64_t>(s.value_heads.size()) * c.delta.value_dim;
      bytes += packed(2 * keys + 2 * values, c.hidden) + packed(2ll * s.value_heads.size(), c.hidden) +
               packed(c.hidden, values);
    }
    if (l.ffn == Ffn::dense) bytes += ffn_bytes(c.hidden, s.dense.size());
    if (l.ffn == Ffn::moe)
      bytes += packed(c.moe.experts + c.moe.shared_gate, c.hidden) + ffn_bytes(c.hidden, s.shared.size());
  }
  return bytes;
}

size_t read_number(const char* path) {
  std::ifstream file(path);
  size_t n = 0;
  return file >> n ? n : SIZE_MAX;
}

}  // namespace

MemoryPlan plan_memory(const ModelConfig& config, bool trunk, const TrunkShare& share, Range columns, Format experts,
                       CacheLimits cache, TrunkLimits limits, int trunk_ranks) {
  MemoryPlan plan;
  if (trunk) {
    plan.trunk_weights = trunk_bytes(config, share);
    plan.cache = StateCache::bytes(config, share, cache);
    plan.step = step_bytes(config, share, limits);
    if (trunk_ranks > 1)
      plan.step += static_cast<size_t>(limits.max_rows) * config.hidden * sizeof(double);  // all-reduce
  }
  if (columns.size()) {
    plan.experts = bank_bytes(config, experts, columns);
    plan.step += ExpertRunner::bytes(config.moe, config.hidden, columns.size(), experts, limits.max_rows);
    // Rows in, sums out, and the messages of both.
    if (!trunk) plan.step += static_cast<size_t>(limits.max_rows) * config.hidden * 2 * (sizeof(bf16) + sizeof(double));
  }
  return plan;
}

std::string describe(const MemoryPlan& p) {
  auto gb = [](size_t bytes) { return static_cast<double>(bytes) / 1e9; };
  return fmt::format("trunk {:.2f} + experts {:.2f} + cache {:.2f} + steps {:.2f} = {:.2f} GB", gb(p.trunk_weights),
                     gb(p.experts), gb(p.cache), gb(p.step), gb(p.total()));
}

size_t available_memory() {
  size_t available = SIZE_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    size_t kib = 0;
    meminfo >> kib >> unit;
    if (key == "MemAvailable:") available = kib * 1024;
    if (key == "MemAvailable:") break;
  }
  const size_t limit = read_number("/sys/fs/cgroup/memory.max"), used = read_number("/sys/fs/cgroup/memory.current");
  if (limit != SIZE_MAX && used != SIZE_MAX) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

}  // namespace kt
