#include <cstring>

#include "runtime/base/error.h"
#include "runtime/model/rope.h"
#include "runtime/model/traffic.h"
#include "runtime/model/trunk.h"
#include "runtime/weights/floats.h"

namespace kt {
namespace {

void begin_report(Trunk& t, const StepPlan& plan) {
  const ModelConfig& c = t.config;
  t.report = {};
  if (plan.orders.counts) t.report.counts.assign(c.layers.size() * c.moe.experts, 0);
  if (plan.orders.ids) t.report.ids.assign(c.layers.size() * plan.tokens.size() * c.moe.top_k, -1);
}

// States of sequences that begin, or go on from a snapshot.
void set_states(Trunk& t, const StepPlan& plan) {
  for (const SeqSlice& s : plan.slices) {
    if (s.load >= t.cache.snapshots() || s.save >= t.cache.snapshots())
      fail(kExitPeerLost, "step {}: snapshots {} and {} of {}", plan.step, s.load, s.save, t.cache.snapshots());
    if (s.first == 0) t.cache.clear_slot(s.slot);
    if (s.load >= 0) t.cache.copy_slot(t.cache.snapshot_slot(s.load), s.slot);
  }
}

void embed(Trunk& t, const StepPlan& plan) {
  const int64_t shape[] = {t.config.vocab, t.config.hidden};
  t.device.embed(t.step.x.top(plan.rows()), [&](int row, bf16* to) {
    std::vector<std::byte> scratch;  // of generated rows
    const StoredRows e = t.checkpoint.rows(t.weights.embedding, shape, plan.tokens[row], 1, scratch);
    to_bf16_rounded(e.type, e.bytes.data(), t.config.hidden, to);
  });
}

void begin_step(Trunk& t, const StepPlan& plan) {
  begin_report(t, plan);
  begin_experts(t, plan.orders);
  set_states(t, plan);
  make_batch(t, plan);
  if (t.config.mla.heads) cut_latent_blocks(t.config.mla, plan, t.blocks);
  t.device.begin(t.batch);
  embed(t, plan);
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

void mix(Trunk& t, int layer, const StepPlan& plan) {
  const Mixer mixer = t.config.layers[layer].mixer;
  switch (mixer) {
    case Mixer::attention: mix_attention(t, layer); break;
    case Mixer::mla: mix_mla(t, layer); break;
    case Mixer::delta_net: mix_delta_net(t, layer); break;
  }
  t.clock.lap(part_of(mixer), mixer_traffic(t, layer, plan));
}

void feed_forward(Trunk& t, int layer) {
  switch (t.config.layers[layer].ffn) {
    case Ffn::dense: dense_ffn(t, layer); break;
    case Ffn::moe: moe(t, layer); break;
  }
}

// y = its sum over the trunk ranks; the same bits on each of them, for any number of ranks.
void reduce(Trunk& t) {
  const Mat<double> y = t.sums();
  const std::span<double> values(y.at, static_cast<size_t>(y.rows * y.ld));
  if (t.limits.device_sums) {
    t.device.sum(values);
  } else {
    t.device.wait();
    if (t.share.count > 1) check(t.group->sum(values, t.device.host_threads()), "sums of trunk ranks");
  }
  t.clock.lap(StepPart::reduce);
}

// x += the sum of y; h = norm(x), y = 0, for the next sub-layer.
void end_sublayer(Trunk& t, DeviceFloats next_norm) {
  reduce(t);
  t.device.add_norm(t.step.x.top(t.batch.rows()), t.sums(), next_norm.data(), t.config.norm_eps, t.normed());
  t.clock.lap(StepPart::other);
}

// The same after the last sub-layer, where only some rows go on.
const float* head(Trunk& t) {
  reduce(t);
  t.clock.enter(-1);
  const int rows = static_cast<int>(t.batch.logit_rows.size());
  const Mat<float> logits = t.step.logits.top(rows);
  if (rows) {
    t.device.last_norm(t.step.x.top(t.batch.rows()), t.sums(), t.weights.final_norm.data(), t.config.norm_eps,
                       t.normed());
    if (t.share.vocab.size()) t.device.linear(t.step.h.top(rows), {{t.weights.head, logits}});
  }
  const float* out = t.device.read(logits);
  t.clock.lap(StepPart::head, rows ? static_cast<double>(t.weights.head.bytes()) : 0.0);
  return out;
}

}  // namespace

void make_batch(Trunk& t, const StepPlan& plan) {
  Batch& b = t.batch;
  b.slices.clear(), b.slice_of.clear(), b.positions.clear(), b.places.clear(), b.logit_rows.clear();
  b.blocks.assign(plan.blocks.begin(), plan.blocks.end());
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const SeqSlice& slice = plan.slices[s];
    if (slice.first + slice.count > t.limits.context)
      fail(kExitPeerLost, "step {}: a sequence of {} tokens exceeds the planned {}", plan.step,
           slice.first + slice.count, t.limits.context);
    const int row = b.rows();
    const int32_t* blocks = &plan.blocks[plan.block_begin[s]];
    b.slices.push_back({.row = row,
                        .count = slice.count,
                        .first = slice.first,
                        .block = plan.block_begin[s],
                        .slot = slice.slot,
                        .save = slice.save < 0 ? -1 : t.cache.snapshot_slot(slice.save),
                        .save_after = slice.save_after});
    for (int i = 0; i < slice.count; ++i) {
      const int position = slice.first + i;
      b.slice_of.push_back(static_cast<int32_t>(s));
      b.positions.push_back(position);
      b.places.push_back(static_cast<int64_t>(blocks[position / kKvBlock]) * kKvBlock + position % kKvBlock);
    }
    for (int i = slice.logits_from; i < slice.count; ++i) b.logit_rows.push_back(row + i);
  }
}

const float* forward(Trunk& t, const StepPlan& plan) {
  const int rows = plan.rows(), layers = static_cast<int>(t.config.layers.size());
  if (rows > t.limits.max_rows || plan.logit_rows() > t.limits.max_logit_rows)
    fail(kExitPeerLost, "step {}: {} rows and {} logits exceed the planned {} and {}", plan.step, rows,
         plan.logit_rows(), t.limits.max_rows, t.limits.max_logit_rows);
  t.clock.begin(phase_of(plan), rows);
  begin_step(t, plan);
  if (!rows) return t.device.read(t.step.logits);  // only its orders were wanted
  t.device.norm(t.step.x.top(rows), t.weights.layers[0].mixer_norm.data(), t.config.norm_eps, t.normed(), t.sums());
  t.clock.lap(StepPart::other);
  for (int layer = 0; layer < layers; ++layer) {
    t.clock.enter(layer);
    mix(t, layer, plan);
    end_sublayer(t, t.weights.layers[layer].ffn_norm);
    feed_forward(t, layer);
    if (layer + 1 < layers) end_sublayer(t, t.weights.layers[layer + 1].mixer_norm);
  }
  t.report.arrived = experts_arrived(t);
  return head(t);
}

Trunk make_trunk(Transport& transport, const Topology& topology, Device& device, const Checkpoint& checkpoint,
                 const ModelConfig& config, const TrunkShare& share, const TrunkWeights& weights,
                 const ExpertBank* bank, StateCache& cache, TrunkLimits limits, std::span<const ExpertSets> copies,
                 TrunkDispatch* dispatch, Group* group) {
  Trunk t{transport, topology, device, checkpoint, config, share, weights, cache, dispatch, group};
  t.limits = limits;
  t.clock = StepClock(config.layers.size());
  t.step = take_laid_out(
      t.step_memory, [&](size_t bytes) { return device.take(bytes); },
      [&](Layout& l) { return lay_out_step(l, config, share, limits); });
  if (limits.shares_sums) {
    device.adopt(group->values().data(), group->values().size());
    Layout shared(group->values().data());
    const SumMemory sums = lay_out_sums(shared, config, share, limits);
    if (!limits.device_sums) t.step.y = sums.y;
    t.step.logits = sums.logits;
    device.clear(group->values().data(), group->values().size());  // touched by who computes them
  }
  device.reserve(step_shape(config, share, limits, share_here(bank, device)));
  t.batch.frequencies = rope_frequencies(config.rope());
  make_moe_room(t, bank, copies);
  return t;
}

}  // namespace kt
