// Routed experts, on the emulated GPU and by the specification.

#include <gtest/gtest.h>

#include "tests/kernels/cuda_weights.h"

namespace kt {
namespace {

constexpr int kExperts = 9;

// Experts of one layer in the memory of both devices.
struct PairExperts {
  std::vector<PairMatrix> matrices;
  std::vector<FfnWeights> cpu, gpu;
  int slice;

  PairExperts(const Pair& pair, Format format, int hidden, int columns, int slice_columns) : slice(slice_columns) {
    const int most = info(format).max_group_tiles;
    const PackedMatrix gate_up{
        .format = format, .n = static_cast<int>(2 * round_up(columns, kTileK)), .k = hidden, .group_tiles = most};
    const PackedMatrix down{.format = format, .n = hidden, .k = columns, .group_tiles = std::min(most, slice / kTileK)};
    matrices.reserve(2 * kExperts);
    for (unsigned e = 0; e < kExperts; ++e) {
      const PairMatrix &a = matrices.emplace_back(pair, gate_up, 2 * e),
                       &b = matrices.emplace_back(pair, down, 2 * e + 1);
      cpu.push_back({a.cpu, b.cpu, columns});
      gpu.push_back({a.gpu, b.gpu, columns});
    }
  }
};

struct PairRouting {
  std::vector<int32_t> ids;
  std::vector<float> weights;
  int rows, top_k;

  Routing view() const { return {ids, weights, rows, top_k}; }
};
// Some pairs are for others; expert 0 gets many rows, expert 1 none.
PairRouting route(int rows, int top_k, unsigned seed) {
  PairRouting routing{{}, normal_floats(static_cast<size_t>(rows * top_k), seed, 0.3f), rows, top_k};
  std::mt19937 random(seed);
  for (int i = 0; i < rows * top_k; ++i) {
    const int e = static_cast<int>(random() % (2 * kExperts));
    routing.ids.push_back(e == 1 ? -1 : e < kExperts ? e : i % top_k ? -1 : 0);
  }
  return routing;
}

struct Size {
  Format format;
  int hidden, columns, slice, rows, top_k;
};

// Runs both devices on the same sums.
void compare(Pair& pair, const PairExperts& w, const PairRouting& routing, int hidden) {
  const int rows = routing.rows;
  const int64_t ldx = round_up(hidden, kTileK), ldy = round_up(hidden, kPanel) + 2;
  const Both<bf16> x(pair, normal_bf16(static_cast<size_t>(rows * ldx), 3));
  std::vector<double> before;
  for (float v : normal_floats(static_cast<size_t>(rows * ldy), 4)) before.push_back(to_grid(v));
  Both<double> y(pair, before);
  const auto job = [&](bool gpu) {
    return ExpertsJob{.experts = gpu ? w.gpu.data() : w.cpu.data(),
                      .slice = w.slice,
                      .x = gpu ? x.gpu_mat(rows, hidden, ldx) : x.cpu_mat(rows, hidden, ldx),
                      .routing = routing.view(),
                      .y = gpu ? y.gpu_mat(rows, hidden, ldy) : y.cpu_mat(rows, hidden, ldy)};
  };
  const double bytes = pair.cpu->experts(job(false));
  Pair::in_every_schedule([&] {
    pair.gpu->write(y.gpu(), before.data(), before.size() * sizeof(double));
    EXPECT_EQ(pair.gpu->experts(job(true)), bytes);
    y.expect_same("sums");
  });
}

TEST(CudaExperts, HaveTheBitsOfTheSpecification) {
  for (const Format format : kAllFormats)
    for (const Size& s :
         {Size{format, 32, 32, 32, 1, 1}, Size{format, 150, 96, 32, 3, 3}, Size{format, 96, 200, 64, 9, 2},
          Size{format, 400, 300, 128, 30, 3}, Size{format, 48, 40, 32, 60, 4}}) {
      SCOPED_TRACE(testing::Message() << info(format).name << ": " << s.rows << " rows, " << s.hidden << " x "
                                      << s.columns);
      Pair pair;
      pair.reserve({.experts = {.experts = kExperts,
                                .top_k = s.top_k,
                                .hidden = s.hidden,
                                .columns = s.columns,
                                .rows = s.rows,
                                .format = format}});
      const PairExperts w(pair, format, s.hidden, s.columns, s.slice);
      compare(pair, w, route(s.rows, s.top_k, 1), s.hidden);
      if (HasFatalFailure()) return;
    }
}

TEST(CudaExperts, OrdersOfManyCallsFollowOneAnother) {
  Pair pair;
  pair.reserve({.experts = {.experts = kExperts, .top_k = 8, .hidden = 32, .columns = 32, .rows = 290}});
  const PairExperts w(pair, Format::BF16, 32, 32, 32);
  ASSERT_GT(36 * 4 * 1000 * 2 * sizeof(int32_t), static_cast<size_t>(1 << 20));
  for (unsigned call = 0; call < 36; ++call) {  // in four schedules: more than the staging memory holds
    compare(pair, w, route(call % 8 ? 260 + static_cast<int>(call) : 2, 8, call), 32);
    if (HasFatalFailure()) return;
  }
}

TEST(CudaExperts, MoreActivationsThanThereIsRoomForComeInWaves) {
  for (const Format format : {Format::BF16, Format::AMXINT8}) {
    Pair pair;
    const PairRouting routing = route(1000, 12, 1);
    ASSERT_GT(std::count_if(routing.ids.begin(), routing.ids.end(), [](int32_t id) { return id >= 0; }),
              kActivationRows);
    pair.reserve(
        {.experts = {.experts = kExperts, .top_k = 12, .hidden = 32, .columns = 32, .rows = 1000, .format = format}});
    const PairExperts w(pair, format, 32, 32, 32);
    compare(pair, w, routing, 32);
  }
}

TEST(CudaExperts, NothingForThisRankIsNoWork) {
  Pair pair;
  pair.reserve({.experts = {.experts = kExperts, .top_k = 2, .hidden = 32, .columns = 32, .rows = 4}});
  PairExperts w(pair, Format::BF16, 32, 32, 32);
  PairRouting routing = route(4, 2, 1);
  routing.ids.assign(routing.ids.size(), -1);
  const uint32_t before = simt::emulated::launches;
  compare(pair, w, routing, 32);
  for (FfnWeights& f : w.cpu) f.columns = 0;
  for (FfnWeights& f : w.gpu) f.columns = 0;
  compare(pair, w, route(4, 2, 1), 32);
  EXPECT_EQ(simt::emulated::launches, before);
}

}  // namespace
}  // namespace kt
