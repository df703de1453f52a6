#include "runtime/model/traffic.h"

#include <algorithm>

namespace kt {
namespace {

// A page is latents and index keys in bf16; keys and values likewise.
double cached_traffic(const Trunk& t, Mixer mixer, const SeqSlice& s) {
  const ModelConfig& c = t.config;
  const double tokens = s.first + s.count;
  switch (mixer) {
    case Mixer::attention: return tokens * 2 * t.share.kv_heads.size() * c.attention.head_dim * sizeof(bf16);
    case Mixer::mla:
      if (c.mla.indexer) {
        const SparseTraffic sparse = sparse_traffic(c.mla, s);
        return sparse.rows + sparse.index_keys;
      }
      return tokens * c.mla.cached_dim() * sizeof(bf16);
    case Mixer::delta_net:
      return static_cast<double>(t.share.value_heads.size()) * c.delta.key_dim * c.delta.value_dim * sizeof(float);
  }
  return 0.0;
}

double weight_traffic(const LayerWeights& w, Mixer mixer) {
  double bytes = 0.0;
  const auto add = [&bytes](std::initializer_list<const PackedMatrix*> matrices) {
    for (const PackedMatrix* m : matrices) bytes += static_cast<double>(m->bytes());
  };
  switch (mixer) {
    case Mixer::attention: add({&w.attention.qkv, &w.attention.out}); break;
    case Mixer::mla:
      add({&w.mla.q_a, &w.mla.kv_a, &w.mla.q_b, &w.mla.out, &w.mla.index_q, &w.mla.index_k, &w.mla.index_weights});
      for (size_t h = 0; h < w.mla.key_up.size(); ++h) add({&w.mla.key_up[h], &w.mla.value_up[h]});
      break;
    case Mixer::delta_net: add({&w.delta.qkvz, &w.delta.ba, &w.delta.out}); break;
  }
  return bytes;
}

}  // namespace

SparseTraffic sparse_traffic(const MlaSpec& mla, const SeqSlice& slice) {
  const IndexerSpec& index = *mla.indexer;
  const double tokens = slice.first + slice.count;
  const double row = static_cast<double>(mla.cached_dim()) * sizeof(bf16);
  if (tokens <= index.top_k) return {.rows = tokens * row};
  const double picked = static_cast<double>(slice.count) * index.top_k;
  return {.rows = std::min(tokens, picked) * row,
          .index_keys = tokens * index.head_dim * static_cast<double>(sizeof(bf16))};
}

double mixer_traffic(const Trunk& t, int layer, const StepPlan& plan) {
  const Mixer mixer = t.config.layers[static_cast<size_t>(layer)].mixer;
  double bytes = weight_traffic(t.weights.layers[static_cast<size_t>(layer)], mixer);
  for (const SeqSlice& s : plan.slices) bytes += cached_traffic(t, mixer, s);
  return bytes;
}

}  // namespace kt
