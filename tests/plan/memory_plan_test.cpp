// The plan against the buffers that are then taken.

#include "runtime/plan/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/cpu/device.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/experts/moe_room.h"
#include "tests/plan/releases.h"

namespace kt {
namespace {

// A release's config with other numbers, so that its layers fit a test.
LoadedConfig small(nlohmann::json config, const nlohmann::json& changes) {
  config.update(changes);
  return loaded(std::move(config));
}
LoadedConfig small_deepseek() {
  return small(deepseek_v32(), {{"num_hidden_layers", 3},
                                {"first_k_dense_replace", 1},
                                {"hidden_size", 256},
                                {"vocab_size", 1000},
                                {"num_attention_heads", 4},
                                {"q_lora_rank", 128},
                                {"kv_lora_rank", 128},
                                {"index_n_heads", 4},
                                {"n_routed_experts", 16},
                                {"moe_intermediate_size", 256},
                                {"intermediate_size", 512}});
}
LoadedConfig small_kimi() {
  return small(kimi_k2_thinking(), {{"num_hidden_layers", 2},
                                    {"hidden_size", 256},
                                    {"vocab_size", 1000},
                                    {"num_attention_heads", 4},
                                    {"q_lora_rank", 128},
                                    {"kv_lora_rank", 128},
                                    {"n_routed_experts", 16},
                                    {"moe_intermediate_size", 256},
                                    {"intermediate_size", 512}});
}
LoadedConfig small_qwen(bool fp8) {
  return small(qwen3_coder_next(fp8), {{"num_hidden_layers", 4},
                                       {"hidden_size", 256},
                                       {"vocab_size", 1000},
                                       {"linear_num_key_heads", 4},
                                       {"linear_num_value_heads", 8},
                                       {"num_experts", 16},
                                       {"moe_intermediate_size", 256},
                                       {"shared_expert_intermediate_size", 256}});
}

// A model's experts, of random weights in its own format.
struct GeneratedExperts {
  explicit GeneratedExperts(const LoadedConfig& model) : model(model) {}
  ExpertBank load(const ExpertShare& share) const { return load_experts(source, model.config, share, *device); }

  const LoadedConfig& model;
  std::unique_ptr<Checkpoint> weights = dummy_checkpoint({});
  mutable ThreadPool pool{2};
  std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
  ExpertSource source{.format = stored_format(model.config.quant.stored),
                      .quant = model.config.quant,
                      .checkpoint = weights.get(),
                      .arch = &model.arch};
};

size_t touched(const Buffer& buffer) { return Buffer::footprint(buffer.size()); }

class MemoryPlanOf : public testing::TestWithParam<LoadedConfig (*)()> {};
INSTANTIATE_TEST_SUITE_P(Releases, MemoryPlanOf,
                         testing::Values(
                             &small_deepseek, &small_kimi, [] { return small_qwen(true); },
                             [] { return small_qwen(false); }));

TEST_P(MemoryPlanOf, TrunkWeightsAreWhatLoadingTakes) {
  const LoadedConfig model = GetParam()();
  const auto weights = dummy_checkpoint({});
  ThreadPool pool(2);
  CpuDevice device(choose_ops(), pool, -1);

  for (const int ranks : {1, 2})
    for (int i = 0; i < ranks; ++i) {
      const TrunkShare share = trunk_share(model.config, i, ranks);
      const TrunkWeights trunk = load_trunk(*weights, model.arch, model.config, share, device);

      EXPECT_EQ(trunk_size(*weights, model.arch, model.config, share).resident,
                touched(trunk.storage) + touched(trunk.absorbed));
    }
}

TEST_P(MemoryPlanOf, BuffersOfAStepAreWhatTheTrunkTakes) {
  const LoadedConfig model = GetParam()();
  const ModelConfig& config = model.config;
  const auto weights = dummy_checkpoint({});
  ThreadPool pool(2);
  const auto transports = make_local_transports(1);
  const Topology topology = plan_topology({}, 0, transports[0]->nodes());
  CpuDevice device(choose_ops(), pool, -1);
  const TrunkShare share = trunk_share(config, 0, 1);
  const TrunkWeights trunk_weights = load_trunk(*weights, model.arch, config, share, device);
  const CacheLimits cache_limits{.blocks = 50, .slots = 3, .snapshots = 4};
  StateCache cache(config, share, cache_limits, device);
  const TrunkLimits limits{.max_rows = 3000,
                           .max_logit_rows = 700,
                           .context = 2048,
                           .hot_format = Format::FP8,
                           .hot_experts = 5,
                           .spare_experts = 2,
                           .layerwise = true};

  const Trunk t =
      make_trunk(*transports[0], topology, device, *weights, config, share, trunk_weights, nullptr, cache, limits);

  EXPECT_EQ(step_bytes(config, share, limits, {}, pool.size()), touched(t.step_memory) + touched(device.reserved()));
  EXPECT_EQ(moe_room_bytes(config, share, limits, {}).host, touched(t.experts->memory));
  const MemoryPlan plan = plan_memory({.config = config,
                                       .trunk = &share,
                                       .trunk_weights = 7,
                                       .cache = cache_limits,
                                       .limits = limits,
                                       .threads = pool.size()});
  EXPECT_EQ(plan.trunk_weights, 7u);
  EXPECT_EQ(plan.hot_experts, Buffer::footprint((5 + 2) * t.experts->hot->shape().bytes()));
  EXPECT_EQ(plan.layer_slots,
            2 * Buffer::footprint(t.experts->stream[0]->slots() * t.experts->stream[0]->shape().bytes()));
  EXPECT_EQ(plan.step,
            step_bytes(config, share, limits, {}, pool.size()) + moe_room_bytes(config, share, limits, {}).host);
  EXPECT_EQ(plan.experts, 0u);
}

TEST_P(MemoryPlanOf, TheBankIsWhatLoadingTakes) {
  const LoadedConfig model = GetParam()();
  const GeneratedExperts generated(model);

  for (int i = 0; i < 3; ++i) {
    const ExpertShare share(inter_part(model.config.moe.inter, i, 3));
    const ExpertBank bank = generated.load(share);
    const MemoryPlan plan = plan_memory({.config = model.config, .bank = share, .experts = generated.source.format});

    EXPECT_EQ(plan.experts, touched(bank.storage));
  }
}

TEST_P(MemoryPlanOf, ABankHoldsItsCopiesToo) {
  const LoadedConfig model = GetParam()();
  const GeneratedExperts generated(model);
  const Range columns{0, model.config.moe.inter};
  ExpertShare share(columns, 0, 2);  // the even experts
  share.copies.assign(model.config.layers.size(), {1, 7});
  const int layer = static_cast<int>(model.config.layers.size()) - 1;

  const ExpertBank bank = generated.load(share);
  const ExpertBank home = generated.load(ExpertShare(columns, 1, 2));

  EXPECT_EQ(plan_memory({.config = model.config, .bank = share, .experts = generated.source.format}).experts,
            touched(bank.storage));
  for (const int e : {1, 7}) {
    const FfnWeights& copy = bank.layer(layer, model.config.moe.experts)[e];
    const FfnWeights& own = home.layer(layer, model.config.moe.experts)[e];
    ASSERT_EQ(copy.gate_up.bytes(), own.gate_up.bytes());
    EXPECT_EQ(0, std::memcmp(copy.gate_up.data, own.gate_up.data, own.gate_up.bytes()));
    EXPECT_EQ(0, std::memcmp(copy.down.data, own.down.data, own.down.bytes()));
  }
  EXPECT_EQ(bank.layer(layer, model.config.moe.experts)[3].columns, 0);
}

TEST_P(MemoryPlanOf, AnExpertThatIsReadAloneHasTheBanksBytes) {
  const LoadedConfig model = GetParam()();
  const GeneratedExperts generated(model);
  const ExpertShare share(inter_part(model.config.moe.inter, 1, 3));
  const int layer = static_cast<int>(model.config.layers.size()) - 1, expert = 5;

  const ExpertBank bank = generated.load(share);
  const Buffer alone(expert_bytes(model.config, generated.source.format, share.pieces[0].size()), -1, generated.pool);
  load_expert(generated.source, model.config, layer, expert, share.pieces[0], alone.bytes(), generated.pool);

  const FfnWeights& w = bank.layer(layer, model.config.moe.experts)[expert];
  ASSERT_EQ(alone.size(), w.gate_up.bytes() + w.down.bytes());
  EXPECT_EQ(0, std::memcmp(alone.bytes(), w.gate_up.data, w.gate_up.bytes()));
  EXPECT_EQ(0, std::memcmp(alone.bytes() + w.gate_up.bytes(), w.down.data, w.down.bytes()));
}

TEST(MemoryPlan, AddsUpAndIsDescribedByPurpose) {
  const MemoryPlan plan{.trunk_weights = 1'000'000'000, .experts = 2'500'000'000, .process = 10'000'000};

  size_t sum = 0;
  for (const Purpose& p : purposes()) sum += plan.*p.bytes;
  EXPECT_EQ(sum, plan.total());
  EXPECT_EQ(plan.total(), plan.on_device() + plan.in_memory());
  EXPECT_EQ(describe(plan), "trunk weights 1.00 + experts 2.50 + process 0.01 = 3.51 GB");
}

TEST(MemoryPlan, RankZeroAloneHoldsTokenizerAndAllLogits) {
  const LoadedConfig model = small_qwen(true);
  const MemoryRequest request{.config = model.config, .limits = {.max_rows = 64, .max_logit_rows = 100}};
  MemoryRequest first = request;
  first.scheduler = true;

  EXPECT_EQ(plan_memory(first).messages - plan_memory(request).messages, 100u * 1000 * sizeof(float));
  EXPECT_GT(plan_memory(first).process, plan_memory(request).process);
}

}  // namespace
}  // namespace kt
