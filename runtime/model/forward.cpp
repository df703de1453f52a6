#include <algorithm>
#include <cmath>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/rope.h"
#include "runtime/model/traffic.h"
#include "runtime/model/trunk.h"

namespace kt {
namespace {

int64_t fused_columns(const ModelConfig& c, const TrunkShare& s) {
  const AttentionSpec& a = c.attention;
  const int64_t attention =
      ((a.gated ? 2 : 1) * s.heads.size() + 2 * s.kv_heads.size()) * static_cast<int64_t>(a.head_dim);
  const int64_t delta = 2ll * s.key_heads.size() * c.delta.key_dim + 2ll * s.value_heads.size() * c.delta.value_dim;
  return std::max(attention, delta);
}
int64_t conv_columns(const ModelConfig& c, const TrunkShare& s) {
  return 2ll * s.key_heads.size() * c.delta.key_dim + static_cast<int64_t>(s.value_heads.size()) * c.delta.value_dim;
}
int64_t mixed_columns(const ModelConfig& c, const TrunkShare& s) {
  return std::max<int64_t>(s.heads.size() * static_cast<int64_t>(c.attention.head_dim),
                           s.value_heads.size() * c.delta.value_dim);
}

// Bytes of each buffer of a step.
struct StepBytes {
  size_t x, h, y, fused, mixed, gated, gates, conv, activations, router, logits;
};
StepBytes bytes_of(const StepStrides& s, TrunkLimits limits) {
  auto bytes = [&](int64_t columns, size_t size) { return static_cast<size_t>(limits.max_rows * columns) * size; };
  return {.x = bytes(s.h, 4),
          .h = bytes(s.h, 2),
          .y = bytes(s.y, 8),
          .fused = bytes(s.fused, 4),
          .mixed = bytes(s.mixed, 4),
          .gated = bytes(s.mixed, 2),
          .gates = bytes(s.gates, 4),
          .conv = bytes(s.conv, 4),
          .activations = bytes(s.activation, 2),
          .router = bytes(s.router, 4),
          .logits = static_cast<size_t>(limits.max_logit_rows * s.logits) * 4};
}

void begin_report(Trunk& t, const StepPlan& plan) {
  const ModelConfig& c = t.config;
  t.report = {};
  if (plan.orders.counts) t.report.counts.assign(c.layers.size() * c.moe.experts, 0);
  if (plan.orders.ids) t.report.ids.assign(c.layers.size() * plan.tokens.size() * c.moe.top_k, -1);
}

// Embeds the tokens and computes the step's rotary angles, in float64.
void begin_step(Trunk& t, const StepPlan& plan) {
  const ModelConfig& c = t.config;
  const int half = c.rope().dims / 2;
  begin_report(t, plan);
  move_experts(t, plan.orders);
  t.layerwise = plan.orders.layerwise;
  std::vector<int> position(plan.tokens.size());
  int row = 0;
  for (const SeqSlice& s : plan.slices) {
    if (s.load >= t.cache.snapshots() || s.save >= t.cache.snapshots())
      fail(kExitPeerLost, "step {}: snapshots {} and {} of {}", plan.step, s.load, s.save, t.cache.snapshots());
    if (s.first == 0) t.cache.clear_slot(s.slot);
    if (s.load >= 0) t.cache.copy_slot(t.cache.snapshot_slot(s.load), s.slot);
    for (int i = 0; i < s.count; ++i) position[row++] = s.first + i;
  }
  const std::vector<double> frequency = rope_frequencies(c.rope());
  const int64_t shape[] = {c.vocab, c.hidden};
  t.kernels.split(plan.rows(), 1, [&](int begin, int end) {
    std::vector<std::byte> scratch;
    for (int r = begin; r < end; ++r) {
      const StoredRows e = t.checkpoint.rows(t.weights.embedding, shape, plan.tokens[r], 1, scratch);
      float* x = t.x.as<float>() + r * t.stride.h;
      for (int i = 0; i < c.hidden; ++i) {
        bf16 v;
        std::memcpy(&v, e.bytes.data() + i * sizeof(bf16), sizeof v);
        x[i] = to_float(v);
      }
      for (int i = 0; i < half; ++i) {
        t.rope_cos[static_cast<size_t>(r) * half + i] = static_cast<float>(std::cos(position[r] * frequency[i]));
        t.rope_sin[static_cast<size_t>(r) * half + i] = static_cast<float>(std::sin(position[r] * frequency[i]));
      }
    }
  });
}

// What the clock calls a mixer.
StepPart part_of(Mixer mixer) {
  switch (mixer) {
    case Mixer::attention: return StepPart::attention;
    case Mixer::mla: return StepPart::mla;
    case Mixer::delta_net: break;
  }
  return StepPart::delta_net;
}

// h = norm(x), y = 0.
void begin_sublayer(Trunk& t, const std::vector<float>& norm, int rows) {
  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r)
      t.kernels.ops.rms_norm(t.x.as<float>() + r * t.stride.h, norm.data(), t.config.norm_eps, t.config.hidden,
                             t.h.as<bf16>() + r * t.stride.h);
    std::memset(t.y.as<double>() + begin * t.stride.y, 0,
                static_cast<size_t>(end - begin) * t.stride.y * sizeof(double));
  });
  t.clock.lap(StepPart::other);
}

// x += the sum of y over the trunk ranks; the same bits on each of them, for any number of ranks.
void end_sublayer(Trunk& t, int rows) {
  all_reduce_sum(t.transport, t.topology.trunk, {t.y.as<double>(), static_cast<size_t>(rows * t.stride.y)});
  t.clock.lap(StepPart::reduce);
  t.kernels.split(rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      float* x = t.x.as<float>() + r * t.stride.h;
      const double* y = t.y.as<double>() + r * t.stride.y;
      for (int i = 0; i < t.config.hidden; ++i) x[i] += static_cast<float>(y[i]);
    }
  });
  t.clock.lap(StepPart::other);
}

const float* head(Trunk& t, const StepPlan& plan) {
  int row = 0, out = 0;
  for (const SeqSlice& s : plan.slices) {
    for (int i = s.logits_from; i < s.count; ++i, ++out)
      t.kernels.ops.rms_norm(t.x.as<float>() + (row + i) * t.stride.h, t.weights.final_norm.data(), t.config.norm_eps,
                             t.config.hidden, t.h.as<bf16>() + out * t.stride.h);
    row += s.count;
  }
  if (out && t.share.vocab.size())
    t.kernels.matmul(t.normed(out), t.weights.head, t.logits.as<float>(), t.stride.logits);
  t.clock.lap(StepPart::head, out ? static_cast<double>(t.weights.head.bytes()) : 0.0);
  return t.logits.as<float>();
}

}  // namespace

StepStrides step_strides(const ModelConfig& c, const TrunkShare& share) {
  return {.h = round_up(c.hidden, kTileK),
          .y = round_up(c.hidden, kPanel),
          .fused = round_up(fused_columns(c, share), kPanel),
          .mixed = round_up(mixed_columns(c, share), kTileK),
          .gates = round_up(2ll * share.value_heads.size(), kPanel),
          .conv = conv_columns(c, share),
          .activation = round_up(std::max(share.dense.size(), share.shared.size()), kTileK),
          .router = round_up(c.moe.experts + 1, kPanel),
          .logits = round_up(share.vocab.size(), kPanel)};
}

size_t step_bytes(const ModelConfig& config, const TrunkShare& share, TrunkLimits limits, int threads, int context) {
  const StepBytes b = bytes_of(step_strides(config, share), limits);
  size_t bytes = 0;
  for (size_t size : {b.x, b.h, b.y, b.fused, b.mixed, b.gated, b.gates, b.conv, b.activations, b.router, b.logits})
    bytes += Buffer::footprint(size);
  const size_t angles = config.rope().dims * sizeof(float),
               routed = config.moe.top_k * (sizeof(int32_t) + sizeof(float));
  bytes += static_cast<size_t>(limits.max_rows) * (angles + routed + sizeof(float));
  return bytes + (config.mla.heads ? mla_room_bytes(config, share, limits.max_rows, threads, context)
                                   : attention_room_bytes(config.attention, threads, context));
}

const float* forward(Trunk& t, const StepPlan& plan) {
  const int rows = plan.rows();
  if (rows > t.limits.max_rows || plan.logit_rows() > t.limits.max_logit_rows)
    fail(kExitPeerLost, "step {}: {} rows and {} logits exceed the planned {} and {}", plan.step, rows,
         plan.logit_rows(), t.limits.max_rows, t.limits.max_logit_rows);
  t.clock.begin(phase_of(plan), rows);
  begin_step(t, plan);
  if (!rows) return t.logits.as<float>();  // only its orders were wanted
  t.clock.lap(StepPart::other);
  for (int layer = 0; layer < static_cast<int>(t.config.layers.size()); ++layer) {
    const LayerWeights& w = t.weights.layers[layer];
    t.clock.enter(layer);

    begin_sublayer(t, w.mixer_norm, rows);
    switch (t.config.layers[layer].mixer) {
      case Mixer::attention: mix_attention(t, layer, plan); break;
      case Mixer::mla: mix_mla(t, layer, plan); break;
      case Mixer::delta_net: mix_delta_net(t, layer, plan); break;
    }
    t.clock.lap(part_of(t.config.layers[layer].mixer), mixer_traffic(t, layer, plan));
    end_sublayer(t, rows);

    begin_sublayer(t, w.ffn_norm, rows);
    switch (t.config.layers[layer].ffn) {
      case Ffn::dense: dense_ffn(t, layer, rows); break;
      case Ffn::moe: moe(t, layer, rows); break;
    }
    end_sublayer(t, rows);
  }
  t.clock.enter(-1);
  t.report.arrived = t.mover && t.mover->arrived();
  return head(t, plan);
}

Trunk make_trunk(Transport& transport, const Topology& topology, const KernelContext& kernels,
                 const Checkpoint& checkpoint, const ModelConfig& config, const TrunkShare& share,
                 const TrunkWeights& weights, const ExpertBank* bank, StateCache& cache, TrunkLimits limits,
                 int numa_node, std::span<const ExpertSets> copies) {
  Trunk t{transport, topology, kernels, checkpoint, config, share, weights, bank, cache};
  t.limits = limits;
  t.clock = StepClock(config.layers.size());
  t.stride = step_strides(config, share);
  const StepBytes s = bytes_of(t.stride, limits);
  auto make = [&](size_t bytes) { return Buffer(bytes, numa_node, kernels.pool); };
  t.x = make(s.x);
  t.h = make(s.h);
  t.y = make(s.y);
  t.fused = make(s.fused);
  t.mixed = make(s.mixed);
  t.gated = make(s.gated);
  t.gates = make(s.gates);
  t.conv = make(s.conv);
  t.activations = make(s.activations);
  t.router = make(s.router);
  t.logits = make(s.logits);
  const size_t rows = static_cast<size_t>(limits.max_rows);
  t.rope_cos.resize(rows * config.rope().dims / 2);
  t.rope_sin.resize(t.rope_cos.size());
  t.expert_ids.resize(rows * config.moe.top_k);
  t.expert_weights.resize(rows * config.moe.top_k);
  t.shared_gate.resize(rows);
  if (config.mla.heads) t.mla = std::make_unique<MlaRoom>(config, share, limits.max_rows, kernels.pool, numa_node);
  make_expert_room(t, copies, numa_node);
  return t;
}

}  // namespace kt
