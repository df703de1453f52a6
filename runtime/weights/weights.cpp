#include "runtime/weights/weights.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/floats.h"

namespace kt {
namespace {

using Shape = std::vector<int64_t>;

// Tensor names and shapes of one layer, and what of them this rank takes.
struct LayerLoader {
  const Checkpoint& checkpoint;
  const Arch& arch;
  const ModelConfig& config;
  const TrunkShare& share;
  Packing& packing;
  std::string prefix;  // "model.layers.7."

  std::string name(std::string_view suffix) const { return prefix + std::string(suffix); }
  RowRun run(std::string_view suffix, int64_t rows, int64_t columns, int64_t first, int64_t count) const {
    return {name(suffix), {rows, columns}, first, count};
  }
  // A norm's weight as it is multiplied.
  std::vector<float> norm(const std::string& tensor, int n) const {
    std::vector<float> w = read_floats(checkpoint, tensor, {n});
    if (config.norm_plus_one)
      for (float& x : w) x += 1.0f;
    return w;
  }

  void attention(AttentionWeights& w) const {
    const AttentionSpec& a = config.attention;
    const int64_t d = a.head_dim, hidden = config.hidden, q_rows = a.heads * d * (a.gated ? 2 : 1),
                  kv_rows = a.kv_heads * d;
    std::vector<RowRun> rows;
    for (int part = 0; part < (a.gated ? 2 : 1); ++part)  // per head: query, then gate
      for (int h = share.heads.begin; h < share.heads.end; ++h)
        rows.push_back(run("self_attn.q_proj.weight", q_rows, hidden, (a.gated ? 2 * h + part : h) * d, d));
    for (const char* suffix : {"self_attn.k_proj.weight", "self_attn.v_proj.weight"})
      rows.push_back(run(suffix, kv_rows, hidden, share.kv_heads.begin * d, share.kv_heads.size() * d));
    packing.add(&w.qkv, rows, 0, config.hidden);
    packing.add(&w.out, {run("self_attn.o_proj.weight", hidden, a.heads * d, 0, hidden)}, share.heads.begin * d,
                share.heads.size() * a.head_dim, a.head_dim);
    if (a.bias) {
      std::vector<float> bias;
      auto take = [&](const char* suffix, int64_t total, Range heads) {
        const std::vector<float> all = read_floats(checkpoint, name(suffix), {total});
        bias.insert(bias.end(), all.begin() + heads.begin * d, all.begin() + heads.end * d);
      };
      take("self_attn.q_proj.bias", a.heads * d, share.heads);
      take("self_attn.k_proj.bias", kv_rows, share.kv_heads);
      take("self_attn.v_proj.bias", kv_rows, share.kv_heads);
      packing.add(&w.bias, std::move(bias));
    }
    if (a.qk_norm) {
      packing.add(&w.q_norm, norm(name("self_attn.q_norm.weight"), a.head_dim));
      packing.add(&w.k_norm, norm(name("self_attn.k_norm.weight"), a.head_dim));
    }
  }

  void delta_net(DeltaWeights& w) const {
    const DeltaSpec& s = config.delta;
    const Range kh = share.key_heads, vh = share.value_heads;
    const int64_t ratio = s.value_heads / s.key_heads, dk = s.key_dim, dv = s.value_dim, hidden = config.hidden;
    const int64_t q_all = s.key_heads * dk, v_all = s.value_heads * dv;
    std::vector<RowRun> qkvz, ba;
    if (checkpoint.find(name("linear_attn.in_proj_qkvz.weight")) ||
        (arch.delta == DeltaLayout::grouped && !checkpoint.find(name("linear_attn.in_proj_qkv.weight")))) {
      // Per key head: query dk | key dk | values ratio*dv | z ratio*dv, and ratio b | ratio a.
      const int64_t group = 2 * dk + 2 * ratio * dv, total = s.key_heads * group;
      const std::pair<int64_t, int64_t> parts[] = {
          {0, dk}, {dk, dk}, {2 * dk, ratio * dv}, {2 * dk + ratio * dv, ratio * dv}};
      for (auto [offset, count] : parts)
        for (int h = kh.begin; h < kh.end; ++h)
          qkvz.push_back(run("linear_attn.in_proj_qkvz.weight", total, hidden, h * group + offset, count));
      for (int part = 0; part < 2; ++part)
        for (int h = kh.begin; h < kh.end; ++h)
          ba.push_back(run("linear_attn.in_proj_ba.weight", 2 * s.value_heads, hidden, (2 * h + part) * ratio, ratio));
    } else {
      const int64_t total = s.conv_channels();
      qkvz = {run("linear_attn.in_proj_qkv.weight", total, hidden, kh.begin * dk, kh.size() * dk),
              run("linear_attn.in_proj_qkv.weight", total, hidden, q_all + kh.begin * dk, kh.size() * dk),
              run("linear_attn.in_proj_qkv.weight", total, hidden, 2 * q_all + vh.begin * dv, vh.size() * dv),
              run("linear_attn.in_proj_z.weight", v_all, hidden, vh.begin * dv, vh.size() * dv)};
      ba = {run("linear_attn.in_proj_b.weight", s.value_heads, hidden, vh.begin, vh.size()),
            run("linear_attn.in_proj_a.weight", s.value_heads, hidden, vh.begin, vh.size())};
    }
    packing.add(&w.qkvz, std::move(qkvz), 0, config.hidden);
    packing.add(&w.ba, std::move(ba), 0, config.hidden);
    packing.add(&w.out, {run("linear_attn.out_proj.weight", hidden, v_all, 0, hidden)}, vh.begin * dv,
                vh.size() * s.value_dim, s.value_dim);

    const int taps = s.conv_kernel, channels = s.conv_channels();
    const std::vector<float> all = read_floats(checkpoint, name("linear_attn.conv1d.weight"), {channels, 1, taps});
    const int local = 2 * kh.size() * s.key_dim + vh.size() * s.value_dim;
    std::vector<float> conv(static_cast<size_t>(taps) * local);
    int to = 0;
    auto take = [&](int64_t first, int64_t count) {
      for (int64_t c = first; c < first + count; ++c, ++to)
        for (int i = 0; i < taps; ++i) conv[static_cast<size_t>(i) * local + to] = all[c * taps + i];
    };
    take(kh.begin * dk, kh.size() * dk);
    take(q_all + kh.begin * dk, kh.size() * dk);
    take(2 * q_all + vh.begin * dv, vh.size() * dv);
    packing.add(&w.conv, std::move(conv));

    const std::vector<float> a_log = read_floats(checkpoint, name("linear_attn.A_log"), {s.value_heads});
    const std::vector<float> dt_bias = read_floats(checkpoint, name("linear_attn.dt_bias"), {s.value_heads});
    std::vector<float> decay;
    for (int h = vh.begin; h < vh.end; ++h) decay.push_back(-std::exp(a_log[h]));
    packing.add(&w.decay, std::move(decay));
    packing.add(&w.dt_bias, {dt_bias.begin() + vh.begin, dt_bias.begin() + vh.end});
    // Plain in every release.
    packing.add(&w.norm, read_floats(checkpoint, name("linear_attn.norm.weight"), {s.value_dim}));
  }

  void ffn(FfnWeights& w, const std::string& at, int inter, Range columns) const {
    w.columns = columns.size();
    if (!w.columns) return;
    const int64_t hidden = config.hidden;
    packing.add_pair(&w.gate_up, run(at + "gate_proj.weight", inter, hidden, columns.begin, columns.size()),
                     run(at + "up_proj.weight", inter, hidden, columns.begin, columns.size()));
    packing.add(&w.down, {run(at + "down_proj.weight", hidden, inter, 0, hidden)}, columns.begin, columns.size(),
                slice_width(inter));
  }
};

std::string layer_prefix(const Checkpoint& checkpoint, const Arch& arch, size_t layer) {
  return fmt::format("{}layers.{}.", tensor_prefix(checkpoint, arch), layer);
}

// Everything but the data: what it will be is in `packing`.
void plan_trunk(TrunkWeights& t, Packing& packing, const Checkpoint& checkpoint, const Arch& arch,
                const ModelConfig& config, const TrunkShare& share) {
  t.layers.resize(config.layers.size());
  for (size_t i = 0; i < t.layers.size(); ++i) {
    LayerWeights& w = t.layers[i];
    const LayerLoader l{checkpoint, arch, config, share, packing, layer_prefix(checkpoint, arch, i)};
    packing.add(&w.mixer_norm, l.norm(l.name("input_layernorm.weight"), config.hidden));
    packing.add(&w.ffn_norm, l.norm(l.name("post_attention_layernorm.weight"), config.hidden));
    switch (config.layers[i].mixer) {
      case Mixer::attention: l.attention(w.attention); break;
      case Mixer::mla: add_mla(w.mla, checkpoint, l.name("self_attn."), config, share, packing); break;
      case Mixer::delta_net: l.delta_net(w.delta); break;
    }
    if (config.layers[i].ffn == Ffn::dense) {
      l.ffn(w.dense, "mlp.", config.dense_inter, share.dense);
      continue;
    }
    std::vector<RowRun> router{l.run("mlp.gate.weight", config.moe.experts, config.hidden, 0, config.moe.experts)};
    if (config.moe.shared_gate) router.push_back(l.run("mlp.shared_expert_gate.weight", 1, config.hidden, 0, 1));
    packing.add(&w.router, std::move(router), 0, config.hidden);
    if (config.moe.sigmoid)
      packing.add(&w.router_bias,
                  read_floats(checkpoint, l.name("mlp.gate.e_score_correction_bias"), {config.moe.experts}));
    if (config.moe.shared_inter > 0)
      l.ffn(w.shared, fmt::format("mlp.{}.", arch.shared_expert), config.moe.shared_inter, share.shared);
  }
  const std::string prefix(tensor_prefix(checkpoint, arch));
  const LayerLoader top{checkpoint, arch, config, share, packing, prefix};
  packing.add(&t.final_norm, top.norm(prefix + "norm.weight", config.hidden));
  t.embedding = prefix + "embed_tokens.weight";
  packing.add(&t.head,
              {{config.tied_head ? t.embedding : "lm_head.weight",
                {config.vocab, config.hidden},
                share.vocab.begin,
                share.vocab.size()}},
              0, config.hidden);
  std::vector<std::byte> scratch;
  require_floats(checkpoint.rows(t.embedding, Shape{config.vocab, config.hidden}, 0, 0, scratch).type, t.embedding);
}

size_t mla_layers(const ModelConfig& config) {
  return static_cast<size_t>(
      std::count_if(config.layers.begin(), config.layers.end(), [](LayerSpec l) { return l.mixer == Mixer::mla; }));
}

}  // namespace

TrunkSize trunk_size(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config, const TrunkShare& share,
                     std::optional<Format> method) {
  TrunkWeights t;
  Packing packing(checkpoint, config.quant, method);
  plan_trunk(t, packing, checkpoint, arch, config, share);
  packing.check();
  const MlaSpec& m = config.mla;
  const int64_t up = static_cast<int64_t>(share.heads.size()) * (m.nope_dim + m.value_dim);
  const size_t layers = mla_layers(config);
  const size_t kv_b =
      stored_bytes(config.quant.stored == Stored::fp8_block ? Format::FP8 : Format::BF16, up, m.kv_rank);
  const size_t embedding = config.tied_head ? 0 : stored_bytes(Format::BF16, config.vocab, config.hidden);
  return {
      .resident = Buffer::footprint(packing.bytes()) + Buffer::footprint(layers * absorbed_bytes(config.mla, share)),
      .stored = packing.stored() + layers * kv_b + embedding,
      .elements = packing.elements() + layers * static_cast<size_t>(up * m.kv_rank)};
}

TrunkWeights load_trunk(const Checkpoint& checkpoint, const Arch& arch, const ModelConfig& config,
                        const TrunkShare& share, Device& device, std::optional<Format> method) {
  TrunkWeights t;
  Packing packing(checkpoint, config.quant, method);
  plan_trunk(t, packing, checkpoint, arch, config, share);
  if (const StoredTensor* e = checkpoint.find(t.embedding); e && e->type != StoredType::bf16)
    log_warning("{}: stored as {}, its rows are rounded to BF16", t.embedding, name_of(e->type));
  t.storage = packing.load(device, method ? fmt::format("trunk as {}", info(*method).name) : "trunk");
  std::vector<AbsorbedLayer> absorbed;
  for (size_t i = 0; i < t.layers.size(); ++i)
    if (config.layers[i].mixer == Mixer::mla)
      absorbed.push_back({&t.layers[i].mla, layer_prefix(checkpoint, arch, i) + "self_attn."});
  t.absorbed = load_absorbed(absorbed, checkpoint, config, share, device);
  return t;
}

}  // namespace kt
