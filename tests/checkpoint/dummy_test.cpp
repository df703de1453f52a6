#include "runtime/checkpoint/dummy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "kernels/numeric.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

std::vector<float> values(const Checkpoint& checkpoint, std::string_view name, std::vector<int64_t> shape,
                          int64_t first, int64_t count) {
  std::vector<std::byte> scratch;
  const StoredRows rows = checkpoint.rows(name, shape, first, count, scratch);
  EXPECT_EQ(rows.type, StoredType::bf16);
  std::vector<bf16> stored(rows.bytes.size() / sizeof(bf16));
  std::memcpy(stored.data(), rows.bytes.data(), rows.bytes.size());
  std::vector<float> result;
  for (const bf16 x : stored) result.push_back(to_float(x));
  return result;
}

struct Moments {
  double mean = 0, deviation = 0;
};
Moments moments(const std::vector<float>& x) {
  double sum = 0, squares = 0;
  for (const float v : x) sum += v, squares += double{v} * v;
  const double n = static_cast<double>(x.size());
  return {sum / n, std::sqrt(squares / n - sum / n * sum / n)};
}

TEST(DummyCheckpoint, GivesTheSameRowsForEverySliceAndOrder) {
  const auto one = dummy_checkpoint({}), other = dummy_checkpoint({});
  const std::string name = "model.layers.3.mlp.experts.gate_up_proj";

  const auto whole = values(*one, name, {4, 6, 33}, 0, 24);
  values(*other, "another", {7, 7}, 0, 7);
  const auto slice = values(*other, name, {4, 6, 33}, 11, 5);

  ASSERT_EQ(whole.size(), 24u * 33u);
  EXPECT_EQ(slice, std::vector<float>(whole.begin() + 11 * 33, whole.begin() + 16 * 33));
}

TEST(DummyCheckpoint, DiffersByNameRowAndSeed) {
  const auto checkpoint = dummy_checkpoint({});
  const auto a = values(*checkpoint, "a.weight", {2, 256}, 0, 1);

  EXPECT_NE(a, values(*checkpoint, "b.weight", {2, 256}, 0, 1));
  EXPECT_NE(a, values(*checkpoint, "a.weight", {2, 256}, 1, 1));
  EXPECT_NE(a, values(*dummy_checkpoint({.seed = 1}), "a.weight", {2, 256}, 0, 1));
}

// With n independent values of deviation s the mean deviates by s / sqrt(n), the deviation by about s / sqrt(2 n), and
// the correlation of two rows of n by 1 / sqrt(n): five of these are the bounds.
TEST(DummyCheckpoint, MatricesAreAboutNormal) {
  const auto x = values(*dummy_checkpoint({}), "model.layers.0.self_attn.q_proj.weight", {512, 1024}, 0, 512);

  const double n = static_cast<double>(x.size());
  const auto [mean, deviation] = moments(x);
  EXPECT_NEAR(mean, 0.0, 5 * 0.02 / std::sqrt(n));
  EXPECT_NEAR(deviation, 0.02, 5 * 0.02 / std::sqrt(2 * n));
  double within = 0;
  for (const float v : x) within += std::abs(v) < 0.02;
  EXPECT_NEAR(within / n, 0.683, 0.02);
  for (const int lag : {1, 2, 31, 1023, 1024, 1025}) {
    double product = 0;
    for (size_t i = lag; i < x.size(); ++i) product += double{x[i]} * x[i - lag];
    EXPECT_NEAR(product / n / (0.02 * 0.02), 0.0, 5 / std::sqrt(n)) << "lag " << lag;
  }
}

TEST(DummyCheckpoint, CentresNormsAsTheModelStoresThem) {
  const auto plain = dummy_checkpoint({}), around_zero = dummy_checkpoint({.norm_plus_one = true});
  const auto mean = [](const Checkpoint& c, const char* name) { return moments(values(c, name, {4096}, 0, 1)).mean; };

  for (const char* name : {"model.norm.weight", "model.layers.1.input_layernorm.weight", "self_attn.q_norm.weight"}) {
    EXPECT_NEAR(mean(*plain, name), 1.0, 0.002) << name;
    EXPECT_NEAR(mean(*around_zero, name), 0.0, 0.002) << name;
  }
  EXPECT_NEAR(mean(*around_zero, "model.layers.1.linear_attn.norm.weight"), 1.0, 0.002);
}

TEST(DummyCheckpoint, DecaysOfTheRecurrenceAreThoseOfMamba2) {
  const auto checkpoint = dummy_checkpoint({});
  for (const float a_log : values(*checkpoint, "l.linear_attn.A_log", {512}, 0, 1)) {
    EXPECT_GE(std::exp(a_log), 1.0f);
    EXPECT_LE(std::exp(a_log), 16.2f);
  }
  for (const float bias : values(*checkpoint, "l.linear_attn.dt_bias", {512}, 0, 1)) {
    const double dt = std::log1p(std::exp(bias));
    EXPECT_GE(dt, 0.0009);
    EXPECT_LE(dt, 0.11);
  }
}

TEST(DummyCheckpoint, RefusesRowsThatATensorDoesNotHave) {
  const auto checkpoint = dummy_checkpoint({});
  std::vector<std::byte> scratch;
  EXPECT_THROW(checkpoint->rows("a", std::vector<int64_t>{4, 4}, 3, 2, scratch), Error);
  EXPECT_THROW(checkpoint->rows("a", std::vector<int64_t>{4, 4}, -1, 2, scratch), Error);
  EXPECT_EQ(checkpoint->find("a"), nullptr);
}

}  // namespace
}  // namespace kt
