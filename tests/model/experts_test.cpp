#include "kernels/device.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runtime/arch/arch.h"
#include "runtime/base/error.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/experts/bank.h"
#include "runtime/model/experts/piece_routing.h"
#include "runtime/model/step_memory.h"
#include "runtime/weights/expert_tensors.h"

namespace kt {
namespace {

constexpr Format kAll[] = {Format::BF16, Format::FP8, Format::RAWINT4, Format::AMXINT4, Format::AMXINT8};

// One layer of generated experts; widths with and without a short last group and slice.
struct Layer {
  ModelConfig config;
  Arch arch{.hf_name = "Test", .prefix = "model."};
  std::unique_ptr<Checkpoint> checkpoint = dummy_checkpoint({.seed = 5});

  Layer(int hidden, int inter) {
    config.hidden = hidden;
    config.layers = {{.ffn = Ffn::dense}, {.ffn = Ffn::moe}};
    config.moe = {.experts = 5, .top_k = 3, .inter = inter};
  }
  ExpertBank bank(Format format, ExpertShare share, Device& device) const {
    QuantSpec quant;
    quant.stored = format == Format::FP8       ? Stored::fp8_block
                   : format == Format::RAWINT4 ? Stored::int4_group
                                               : Stored::bf16;
    return load_experts({.format = format, .quant = quant, .checkpoint = checkpoint.get(), .arch = &arch}, config,
                        std::move(share), device);
  }
};

struct RoutedRows {
  int rows, top_k;
  int64_t stride;
  std::vector<bf16> x;
  std::vector<int32_t> ids;
  std::vector<float> weights;

  RoutedRows(const ModelConfig& c, int count) : rows(count), top_k(c.moe.top_k), stride(round_up(c.hidden, kTileK)) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    x.resize(static_cast<size_t>(rows * stride));
    for (int r = 0; r < rows; ++r)
      for (int i = 0; i < c.hidden; ++i) x[static_cast<size_t>(r * stride + i)] = to_bf16(normal(random));
    for (int i = 0; i < rows * top_k; ++i) {
      ids.push_back((i / top_k * 2 + i % top_k) % c.moe.experts);
      weights.push_back(static_cast<float>(random() % 1000) / 1000);
    }
  }
};

// Sums of rows [first, first + count); `sliced`: of a bank in pieces.
std::vector<double> run(const Ops& ops, ThreadPool& pool, const ModelConfig& c, const ExpertBank& bank,
                        const RoutedRows& b, int first, int count, bool sliced = false) {
  const int64_t ldo = round_up(c.hidden, kPanel);
  std::vector<double> out(static_cast<size_t>(count * ldo));
  const std::unique_ptr<Device> device = make_cpu_device(ops, pool, -1);
  device->reserve(bank_shape(c, bank.share, bank.format, count));
  const size_t pair = static_cast<size_t>(first) * b.top_k, pairs = static_cast<size_t>(count) * b.top_k;
  bf16* x = const_cast<bf16*>(&b.x[first * b.stride]);
  std::vector<int32_t> ids(pairs * bank.share.pieces.size());
  std::vector<float> weights(ids.size());
  const Routing routing{.ids = std::span(b.ids).subspan(pair, pairs),
                        .weights = std::span(b.weights).subspan(pair, pairs),
                        .rows = count,
                        .top_k = b.top_k};
  PieceWidths widths(bank.share, sliced);
  for (Routing pieces; widths.next(routing, {ids.data(), weights.data()}, pieces);)
    device->experts({.experts = bank.layer(1, c.moe.experts),
                     .slice = slice_width(c.moe.inter),
                     .x = {x, b.stride, count, c.hidden},
                     .routing = pieces,
                     .y = {out.data(), ldo, count, c.hidden}});
  return out;
}

class Experts : public testing::TestWithParam<std::tuple<Format, int>> {
 protected:
  Format format = std::get<0>(GetParam());
  int inter = std::get<1>(GetParam());
  Layer layer{288, inter};
  ThreadPool pool{3};
  std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
  RoutedRows batch{layer.config, 24};  // about 14 rows an expert: tiles and vectors
};

TEST_P(Experts, GiveARowTheSameBitsAloneAndInABatch) {
  for (const Ops* ops : available_ops()) {
    const ExpertBank bank = layer.bank(format, Range{0, inter}, *device);
    const std::vector<double> together = run(*ops, pool, layer.config, bank, batch, 0, batch.rows);
    const int64_t ldo = round_up(layer.config.hidden, kPanel);
    for (int r = 0; r < batch.rows; r += 7) {
      const std::vector<double> alone = run(*ops, pool, layer.config, bank, batch, r, 1);
      for (int i = 0; i < layer.config.hidden; ++i)
        ASSERT_EQ(alone[i], together[r * ldo + i]) << ops->name << " row " << r << " column " << i;
    }
  }
}

TEST_P(Experts, AddUpToTheSameBitsForEverySplitAndEveryTable) {
  const ExpertBank whole = layer.bank(format, Range{0, inter}, *device);
  const std::vector<double> expected = run(*available_ops().front(), pool, layer.config, whole, batch, 0, batch.rows);
  for (int ranks = 1; ranks <= 6; ++ranks) {
    std::vector<ExpertBank> parts;
    for (int rank = 0; rank < ranks; ++rank)
      parts.push_back(layer.bank(format, inter_part(inter, rank, ranks), *device));
    for (const Ops* ops : available_ops()) {
      std::vector<double> sum(expected.size());
      for (const ExpertBank& part : parts) {
        const std::vector<double> y = run(*ops, pool, layer.config, part, batch, 0, batch.rows);
        for (size_t i = 0; i < sum.size(); ++i) sum[i] += y[i];
      }
      EXPECT_EQ(sum, expected) << ops->name << ", " << ranks << " ranks";
    }
  }
}

TEST_P(Experts, OfReplicatedBanksAreTheSameBitsInEveryGroupAndAsPiecesOfAll) {
  const ModelConfig& c = layer.config;
  const Ops& ops = *available_ops().back();
  const std::vector<double> expected =
      run(ops, pool, c, layer.bank(format, Range{0, inter}, *device), batch, 0, batch.rows);
  for (const std::vector<int>& group_of : {std::vector{0, 1}, {0, 0, 1, 1}, {0, 1, 1, 2, 2, 2}, {0, 1, 2, 3, 4}}) {
    std::vector<ExpertShare> shares = expert_shares(inter, group_of, true);
    std::vector<double> sliced(expected.size());
    std::vector<std::vector<double>> whole(static_cast<size_t>(shares.front().groups), sliced);
    const auto add = [](std::vector<double>& sum, const std::vector<double>& y) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += y[i];
    };
    for (ExpertShare& share : shares) {
      share.copies.resize(c.layers.size());
      for (int32_t e = 0; e < c.moe.experts; ++e)
        if (!share.owns(e)) share.copies[1].push_back(e);
      const ExpertBank bank = layer.bank(format, share, *device);
      EXPECT_EQ(bank.share.held(1, c.moe.experts).size(), share.columns() ? 5u : 0u);
      EXPECT_GE(bank.storage.size(), bank_bytes(c, format, share));
      add(sliced, run(ops, pool, c, bank, batch, 0, batch.rows, true));
      add(whole[static_cast<size_t>(share.group)], run(ops, pool, c, bank, batch, 0, batch.rows, false));
    }
    EXPECT_EQ(sliced, expected) << shares.size() << " ranks";
    for (const std::vector<double>& of_group : whole) EXPECT_EQ(of_group, expected) << shares.size() << " ranks";
  }
}

// Against float64 on the generated values. Half a step of a weight is 1/30 of its group's largest for INT4 (the scale
// is clipped a little), 1/254 for INT8, and so is that of a quantised input; groups of 128 normal values have a largest
// of about 2.7 standard deviations and uniform rounding errors, so a factor's relative error is 2.7 / (30 sqrt 3) * 2 =
// 10 % or 2.7 / (254 sqrt 3) * 2 = 1.2 %. Three factors carry it: gate, up and down. FP8 rounds to 4 bits: 3 %. The
// generated RAWINT4 weights are other values altogether, so they are not here.
class ExpertErrors : public Experts {};
TEST_P(ExpertErrors, StayWithinThoseOfTheFormat) {
  const ModelConfig& c = layer.config;
  const ExpertBank bank = layer.bank(format, Range{0, inter}, *device);
  const std::vector<double> found = run(*available_ops().back(), pool, c, bank, batch, 0, 1);

  std::vector<double> expected(static_cast<size_t>(c.hidden));
  for (int j = 0; j < c.moe.top_k; ++j) {
    const ExpertRows rows = expert_rows(*layer.checkpoint, layer.arch, c, 1, batch.ids[j]);
    const auto product = [&](const RowRun& run, int n, const std::vector<double>& x) {
      const FloatRows matrix(*layer.checkpoint, {}, run);
      std::vector<float> row(x.size());
      std::vector<double> y(static_cast<size_t>(n));
      for (int r = 0; r < n; ++r) {
        matrix.read(r, 1, {0, static_cast<int>(x.size())}, row.data());
        for (size_t i = 0; i < x.size(); ++i) y[r] += static_cast<double>(row[i]) * x[i];
      }
      return y;
    };
    std::vector<double> x(static_cast<size_t>(c.hidden));
    for (int i = 0; i < c.hidden; ++i) x[i] = to_float(batch.x[i]);
    std::vector<double> h = product(rows.gate, inter, x);
    const std::vector<double> up = product(rows.up, inter, x);
    for (int i = 0; i < inter; ++i) h[i] *= up[i] / (1.0 + std::exp(-h[i]));
    const std::vector<double> y = product(rows.down, c.hidden, h);
    for (int i = 0; i < c.hidden; ++i) expected[i] += static_cast<double>(batch.weights[j]) * y[i];
  }
  double error = 0.0, size = 0.0;
  for (int i = 0; i < c.hidden; ++i) {
    error += (found[i] - expected[i]) * (found[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  const double factor = format == Format::AMXINT4   ? 0.10
                        : format == Format::AMXINT8 ? 0.012
                        : format == Format::FP8     ? 0.03
                                                    : 0.004;
  EXPECT_LT(std::sqrt(error / size), 3 * factor) << info(format).name;
  EXPECT_GT(std::sqrt(error / size), factor / 30);
}

std::string name_of(const testing::TestParamInfo<std::tuple<Format, int>>& test) {
  return fmt::format("{}_{}", info(std::get<0>(test.param)).name, std::get<1>(test.param));
}
INSTANTIATE_TEST_SUITE_P(Formats, ExpertErrors,
                         testing::Combine(testing::Values(Format::BF16, Format::FP8, Format::AMXINT4, Format::AMXINT8),
                                          testing::Values(160, 640)),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Formats, Experts, testing::Combine(testing::ValuesIn(kAll), testing::Values(160, 640)),
                         name_of);

}  // namespace
}  // namespace kt
