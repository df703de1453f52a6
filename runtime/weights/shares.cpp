#include "runtime/weights/shares.h"

#include <algorithm>
#include <string>

#include "kernels/weight.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

// All counts that fit: attention heads divide, key-value heads divide or are replicated evenly, key heads divide.
bool fits(const ModelConfig& c, int count) {
  const AttentionSpec& a = c.attention;
  if (c.query_heads() % count) return false;
  if (a.kv_heads % count && (count % a.kv_heads || (a.heads / a.kv_heads) % (count / a.kv_heads))) return false;
  const bool delta =
      std::any_of(c.layers.begin(), c.layers.end(), [](LayerSpec l) { return l.mixer == Mixer::delta_net; });
  return !delta || c.delta.key_heads % count == 0;
}

}  // namespace

int ExpertShare::columns() const {
  int n = 0;
  for (const Range piece : pieces) n += piece.size();
  return n;
}

int ExpertShare::widest() const {
  int n = 0;
  for (const Range piece : pieces) n = std::max(n, piece.size());
  return n;
}

std::vector<int32_t> ExpertShare::held(int layer, int experts) const {
  std::vector<int32_t> all;
  if (!columns()) return all;
  for (int32_t e = group; e < experts; e += groups) all.push_back(e);
  if (copies.empty()) return all;
  const auto own = static_cast<std::ptrdiff_t>(all.size());
  const std::vector<int32_t>& more = copies[static_cast<size_t>(layer)];
  all.insert(all.end(), more.begin(), more.end());
  std::inplace_merge(all.begin(), all.begin() + own, all.end());
  return all;
}

std::vector<ExpertShare> expert_shares(int inter, std::span<const int> group_of, bool replicated) {
  std::vector<ExpertShare> shares;
  const int groups = group_of.empty() ? 1 : *std::max_element(group_of.begin(), group_of.end()) + 1;
  for (size_t i = 0; i < group_of.size(); ++i) {
    const auto before = std::count(group_of.begin(), group_of.begin() + static_cast<int64_t>(i), group_of[i]);
    const auto all = std::count(group_of.begin(), group_of.end(), group_of[i]);
    const int index = static_cast<int>(before), count = static_cast<int>(all);
    ExpertShare& share = shares.emplace_back(inter_part(inter, index, count), group_of[i], groups);
    if (!replicated) continue;
    share.pieces.clear();
    for (int p = 0; p < groups; ++p) {
      const Range slices = part_of(slice_count(inter), p, groups),
                  mine = part_of(slices.size(), (index + p) % count, count);
      share.pieces.push_back(slice_columns(inter, {slices.begin + mine.begin, slices.begin + mine.end}));
    }
  }
  return shares;
}

TrunkShare trunk_share(const ModelConfig& config, int index, int count) {
  const AttentionSpec& a = config.attention;
  if (!fits(config, count)) {
    std::string valid;
    for (int n = 1; n <= config.query_heads(); ++n)
      if (fits(config, n)) valid += (valid.empty() ? "" : ", ") + std::to_string(n);
    fail(kExitUsage,
         "tensor-parallel-size {} does not divide the heads of {} ({} query, {} key-value, {} linear key heads)\n"
         "  valid: {}",
         count, config.architecture, config.query_heads(), a.kv_heads, config.delta.key_heads, valid);
  }
  TrunkShare s{.index = index, .count = count};
  s.heads = part_of(config.query_heads(), index, count);
  if (a.kv_heads > 0) s.kv_heads = {s.heads.begin * a.kv_heads / a.heads, (s.heads.end - 1) * a.kv_heads / a.heads + 1};
  s.key_heads = part_of(config.delta.key_heads, index, count);
  if (config.delta.key_heads > 0) {
    const int ratio = config.delta.value_heads / config.delta.key_heads;
    s.value_heads = {s.key_heads.begin * ratio, s.key_heads.end * ratio};
  }
  if (config.dense_inter > 0) s.dense = inter_part(config.dense_inter, index, count);
  if (config.moe.shared_inter > 0) s.shared = inter_part(config.moe.shared_inter, index, count);
  const Range panels = part_of(static_cast<int>(ceil_div(config.vocab, kPanel)), index, count);
  s.vocab = {panels.begin * kPanel, std::min(panels.end * kPanel, config.vocab)};
  return s;
}

}  // namespace kt
