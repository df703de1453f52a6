#include "runtime/engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

namespace kt {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::optional<int32_t> greedy(const std::vector<float>& logits, int known, SamplingParams params = {},
                              SamplerState state = {}, int made = 0) {
  params.temperature = 0.0f;
  return Sampler(known).sample(logits, params, state, made, 0);
}

// How often each token is drawn at `draws` positions.
std::map<int32_t, double> shares(const std::vector<float>& logits, const SamplingParams& params, int draws = 20'000) {
  Sampler sampler(static_cast<int>(logits.size()));
  SamplerState state;
  state.seed = 42;
  std::map<int32_t, double> share;
  for (int i = 0; i < draws; ++i) {
    const auto token = sampler.sample(logits, params, state, 0, static_cast<uint64_t>(i));
    share[token.value()] += 1.0 / draws;
  }
  return share;
}

// Logits of these probabilities.
std::vector<float> logits_of(std::initializer_list<double> probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

// Five standard deviations of a share of 20000 draws are at most 5 sqrt(1/4 / 20000) = 0.018.
constexpr double kShareError = 0.018;

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(greedy({1, 3, 2}, 3), 1);
  EXPECT_EQ(greedy({1, 3, 3, 3}, 4), 1);
  std::vector<float> wide(1000, -1.0f);
  wide[777] = wide[333] = 2.0f;
  EXPECT_EQ(greedy(wide, 1000), 333);
  EXPECT_EQ(greedy({-kInfinity, -5}, 2), 1);
}

TEST(Sampler, NeverChoosesAnIdWithoutText) {
  EXPECT_EQ(greedy({1, 2, 9, 9}, 2), 1);
  SamplingParams params;
  Sampler sampler(2);
  for (uint64_t i = 0; i < 100; ++i)
    EXPECT_LT(sampler.sample(std::vector<float>{1, 2, 9, 9}, params, {}, 0, i).value(), 2);
  EXPECT_EQ(sampler.logprob(std::vector<float>{1, 2, 9, 9}, 0, 4).top.size(), 2u);
}

TEST(Sampler, RefusesLogitsThatAreNotNumbers) {
  std::vector<float> wide(100, 1.0f);
  wide[50] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(greedy(wide, 100), std::nullopt);
  EXPECT_EQ(greedy({1, 2, std::numeric_limits<float>::quiet_NaN()}, 3), std::nullopt);
  EXPECT_EQ(greedy({1, kInfinity}, 2), std::nullopt);
  EXPECT_EQ(greedy({-kInfinity, -kInfinity}, 2), std::nullopt);
}

TEST(Sampler, AppliesPenaltiesToTheTokensTheyAreFor) {
  SamplingParams params;
  params.frequency_penalty = 0.5f;
  params.presence_penalty = 0.2f;
  SamplerState state;
  for (int i = 0; i < 3; ++i) count_output(state, params, 1);  // 4 - 3 * 0.5 - 0.2 = 2.3

  EXPECT_EQ(greedy({2.2f, 4}, 2, params, state), 1);
  EXPECT_EQ(greedy({2.4f, 4}, 2, params, state), 0);
}

TEST(Sampler, DividesPositiveAndMultipliesNegativeLogitsOfSeenTokens) {
  GenerateRequest request;
  request.input_ids = {1};
  request.sampling.repetition_penalty = 2.0f;
  const SamplerState state = make_sampler_state(request, {}, 0);

  EXPECT_EQ(greedy({2.1f, 4}, 2, request.sampling, state), 0);
  EXPECT_EQ(greedy({1.9f, 4}, 2, request.sampling, state), 1);
  EXPECT_EQ(greedy({-7.9f, -4}, 2, request.sampling, state), 0);
  EXPECT_EQ(greedy({-8.1f, -4}, 2, request.sampling, state), 1);
}

TEST(Sampler, BansWhatEndsTheAnswerUntilMinNewTokens) {
  GenerateRequest request;
  request.sampling.min_new_tokens = 2;
  request.sampling.stop_token_ids = {1};
  const std::vector<int32_t> eos = {0};
  const SamplerState state = make_sampler_state(request, eos, 0);

  EXPECT_EQ(greedy({9, 8, 1}, 3, request.sampling, state, 1), 2);
  EXPECT_EQ(greedy({9, 8, 1}, 3, request.sampling, state, 2), 0);
}

TEST(Sampler, ChoosesAmongWhatIsAllowedWhateverTheBias) {
  const std::vector<uint32_t> allowed = {0b0110};
  SamplingParams params;
  params.temperature = 0.0f;
  EXPECT_EQ(Sampler(4).sample(std::vector<float>{9, 1, 2, 8}, params, {}, 0, 0, allowed), 2);
  params.logit_bias = {{0, 100.0f}, {1, 5.0f}};
  EXPECT_EQ(Sampler(4).sample(std::vector<float>{9, 1, 2, 8}, params, {}, 0, 0, allowed), 1);
  params.temperature = 2.0f;
  for (uint64_t position = 0; position < 100; ++position) {
    const auto token = Sampler(4).sample(std::vector<float>{9, 1, 2, 8}, params, {}, 0, position, allowed);
    EXPECT_TRUE(token == 1 || token == 2) << *token;
  }
  EXPECT_EQ(Sampler(4).sample(std::vector<float>{9, 1, 2, 8}, params, {}, 0, 0, std::vector<uint32_t>{0}),
            std::nullopt);
}

TEST(Sampler, LiftsTheBanOfEndsWhereNothingElseIsAllowed) {
  GenerateRequest request;
  request.sampling.min_new_tokens = 2;
  request.sampling.temperature = 0.0f;
  const std::vector<int32_t> eos = {0};
  const SamplerState state = make_sampler_state(request, eos, 0);
  const std::vector<float> logits = {1, 2, 3};

  EXPECT_EQ(Sampler(3).sample(logits, request.sampling, state, 0, 0, std::vector<uint32_t>{0b001}), 0);
  EXPECT_EQ(Sampler(3).sample(logits, request.sampling, state, 0, 0, std::vector<uint32_t>{0b011}), 1);
}

TEST(Sampler, AddsTheBiasAndIgnoresIdsOutside) {
  SamplingParams params;
  params.logit_bias = {{0, 5.0f}, {-3, 100.0f}, {70, 100.0f}};

  EXPECT_EQ(greedy({1, 5}, 2, params), 0);
}

TEST(Sampler, DrawsByProbability) {
  const auto share = shares(logits_of({0.5, 0.3, 0.2}), {});

  EXPECT_NEAR(share.at(0), 0.5, kShareError);
  EXPECT_NEAR(share.at(1), 0.3, kShareError);
  EXPECT_NEAR(share.at(2), 0.2, kShareError);
}

TEST(Sampler, DividesByTheTemperature) {
  SamplingParams params;
  params.temperature = 0.5f;  // squares the probabilities: 0.25 to 0.09 to 0.04

  const auto share = shares(logits_of({0.5, 0.3, 0.2}), params);

  EXPECT_NEAR(share.at(0), 0.25 / 0.38, kShareError);
  EXPECT_NEAR(share.at(2), 0.04 / 0.38, kShareError);
}

TEST(Sampler, KeepsTheTopKAndTheirProportions) {
  SamplingParams params;
  params.top_k = 2;

  const auto share = shares(logits_of({0.2, 0.5, 0.3}), params);

  EXPECT_EQ(share.size(), 2u);
  EXPECT_NEAR(share.at(1), 0.5 / 0.8, kShareError);
}

TEST(Sampler, KeepsATokenIfTheMassBeforeItIsAtMostTopP) {
  SamplingParams params;
  params.top_p = 0.6f;

  const auto share = shares(logits_of({0.1, 0.5, 0.3, 0.1}), params);

  EXPECT_EQ(share.size(), 2u);
  EXPECT_NEAR(share.at(1), 0.5 / 0.8, kShareError);
}

TEST(Sampler, KeepsWhatReachesMinPOfTheLargest) {
  SamplingParams params;
  params.min_p = 0.5f;

  const auto share = shares(logits_of({0.19, 0.5, 0.31}), params);

  EXPECT_EQ(share.size(), 2u);
  EXPECT_NEAR(share.at(2), 0.31 / 0.81, kShareError);
}

// All three limits together against a plain full sort, over narrow and wide spreads of logits.
TEST(Sampler, AgreesWithAFullSort) {
  std::mt19937 random(5);
  for (int round = 0; round < 400; ++round) {
    std::normal_distribution<float> normal(0.0f, round % 2 == 0 ? 0.5f : 12.0f);
    std::vector<float> logits(300);
    for (float& x : logits) x = std::round(normal(random) * 8.0f) / 8.0f;  // with ties
    SamplingParams params;
    params.temperature = 0.25f + static_cast<float>(random() % 16) / 4.0f;
    if (random() % 2) params.top_k = 1 + static_cast<int>(random() % 299);
    if (random() % 2) params.top_p = static_cast<float>(1 + random() % 99) / 100.0f;
    if (random() % 2) params.min_p = static_cast<float>(random() % 50) / 1000.0f;

    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    const auto weight = [&](int32_t id) {
      return std::exp((static_cast<double>(logits[id]) - logits[order[0]]) / params.temperature);
    };
    double total = 0.0, before = 0.0;
    for (const int32_t id : order) total += weight(id);
    std::vector<int32_t> kept;
    for (const int32_t id : order) {
      const bool in = (params.top_k < 1 || static_cast<int>(kept.size()) < params.top_k) &&
                      before <= static_cast<double>(params.top_p) * total * (1 + 1e-12) && weight(id) >= params.min_p;
      if (!in) break;
      kept.push_back(id);
      before += weight(id);
    }

    Sampler sampler(300);
    SamplerState state;
    state.seed = random();
    for (uint64_t position = 0; position < 50; ++position) {
      const int32_t token = sampler.sample(logits, params, state, 0, position).value();
      ASSERT_NE(std::find(kept.begin(), kept.end(), token), kept.end()) << "round " << round;
      if (params.top_k < 1 && params.top_p == 1.0f && params.min_p == 0.0f) continue;
      double left = uniform(state.seed, position) * before;
      size_t i = 0;
      while (i + 1 < kept.size() && (left -= weight(kept[i])) >= 0.0) ++i;
      ASSERT_EQ(token, kept[i]) << "round " << round;
    }
  }
}

TEST(Sampler, DrawsDependOnSeedAndPositionAlone) {
  const std::vector<float> logits(1000, 0.0f);
  SamplerState state;
  state.seed = 7;
  Sampler first(1000), second(1000);
  second.sample(logits, {}, state, 3, 99);

  EXPECT_EQ(first.sample(logits, {}, state, 0, 5), second.sample(logits, {}, state, 8, 5));
  EXPECT_NE(first.sample(logits, {}, state, 0, 5), first.sample(logits, {}, state, 0, 6));
}

TEST(Sampler, UniformIsUniform) {
  double sum = 0.0;
  for (uint64_t i = 0; i < 10'000; ++i) {
    const double u = uniform(i % 100, i / 100);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10'000, 0.5, 0.015);  // five standard deviations: 5 sqrt(1/12 / 10000)
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  Sampler sampler(3);

  const TokenLogprob got = sampler.logprob(logits_of({0.2, 0.5, 0.3}), 2, 2);

  EXPECT_EQ(got.id, 2);
  EXPECT_NEAR(got.logprob, std::log(0.3), 1e-6);
  ASSERT_EQ(got.top.size(), 2u);
  EXPECT_EQ(got.top[0].first, 1);
  EXPECT_NEAR(got.top[0].second, std::log(0.5), 1e-6);
  EXPECT_EQ(got.top[1].first, 2);
  EXPECT_EQ(got.top[1].second, got.logprob);
}

TEST(Sampler, ListsEqualLogprobsByIdAndReachesFarDown) {
  std::vector<float> logits(100, -300.0f);
  logits[40] = 10.0f;
  Sampler sampler(100);

  const TokenLogprob got = sampler.logprob(logits, 0, 4);

  ASSERT_EQ(got.top.size(), 4u);
  EXPECT_EQ(got.top[0].first, 40);
  EXPECT_EQ(got.top[1].first, 0);
  EXPECT_EQ(got.top[3].first, 2);
  EXPECT_NEAR(got.logprob, -310.0f, 1e-3);
}

}  // namespace
}  // namespace kt
