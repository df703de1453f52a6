// Routing, and rows and sums that travel, on the emulated GPU: the bits of the CPU's plain loops.

#include <algorithm>
#include <numeric>

#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

// In take_host's memory.
struct Routed {
  Buffer memory;
  int32_t* ids;
  float* weights;

  Routed(Device& device, size_t pairs) : memory(device.take_host(pairs * 8)) {
    ids = memory.as<int32_t>();
    weights = reinterpret_cast<float*>(ids + pairs);
    std::fill_n(ids, pairs, -7);
  }
};

// Many ties, of zeros with both signs too, when `ties`.
std::vector<float> scores(size_t n, unsigned seed, bool ties) {
  std::vector<float> out = normal_floats(n, seed, 2.0f);
  if (ties)
    for (size_t i = 0; i < n; ++i) out[i] = i % 3 ? std::rint(out[i] / 2) : 1e-40f;
  return out;
}

struct RouteCase {
  int rows, experts, top_k, groups = 0, kept_groups = 0;  // 0 groups: softmax
  float from = 0.0f;                                      // logits are around it
};

void compare_routes(const RouteCase& c, bool ties, bool normalise, bool shared) {
  SCOPED_TRACE(std::to_string(c.rows) + " rows, " + std::to_string(c.experts) + " experts, " +
               std::to_string(c.groups) + " groups, ties " + std::to_string(ties));
  const Pair pair;
  const int64_t ld = round_up(c.experts + 1, kPanel);
  const size_t pairs = static_cast<size_t>(c.rows) * c.top_k;
  const Both<float> bias(pair, scores(c.experts, 5, ties));
  Both<float> gate(pair, c.rows + 1);
  Routed found(*pair.gpu, pairs), expected(*pair.cpu, pairs);
  SigmoidRouting sigmoid{.experts = c.experts,
                         .top_k = c.top_k,
                         .groups = c.groups,
                         .kept_groups = c.kept_groups,
                         .normalise = normalise,
                         .scale = 2.5f};
  RouteJob job{.experts = c.experts, .top_k = c.top_k, .normalise = normalise};
  if (c.groups) job.sigmoid = &sigmoid;

  std::vector<float> around = scores(c.rows * ld, 3, ties);
  for (float& x : around) x += c.from;
  const Both<float> logits(pair, around);
  job.logits = logits.gpu_mat(c.rows, c.experts + 1, ld);
  job.ids = found.ids, job.weights = found.weights, job.shared_gate = shared ? gate.gpu() : nullptr;
  sigmoid.bias = bias.gpu();
  pair.gpu->route(job);
  pair.gpu->wait();
  job.logits = logits.cpu_mat(c.rows, c.experts + 1, ld);
  job.ids = expected.ids, job.weights = expected.weights, job.shared_gate = shared ? gate.cpu() : nullptr;
  sigmoid.bias = bias.cpu();
  pair.cpu->route(job);

  for (size_t i = 0; i < pairs; ++i) {
    ASSERT_EQ(found.ids[i], expected.ids[i]) << "pair " << i;
    ASSERT_EQ(0, std::memcmp(&found.weights[i], &expected.weights[i], sizeof(float)))
        << "pair " << i << ": found " << found.weights[i] << ", expected " << expected.weights[i];
  }
  gate.expect_same("gate");
}

TEST(CudaRouting, PicksTheLargestOfASoftmaxWithTheBitsOfRef) {
  Pair::in_every_schedule([] {
    for (const RouteCase& c : {RouteCase{1, 8, 2},
                               {3, 60, 4},
                               {33, 128, 8},
                               {5, 512, 10},
                               {2, 700, 40},
                               {1, 1, 1},
                               {2, 16, 16, 0, 0, -90.0f},
                               {0, 8, 2}}) {
      compare_routes(c, false, true, true);
      compare_routes(c, true, false, false);
    }
  });
}

TEST(CudaRouting, PicksTheLargestOfSigmoidsFromTheBestGroupsWithTheBitsOfRef) {
  Pair::in_every_schedule([] {
    for (const RouteCase& c : {RouteCase{3, 256, 8, 8, 4},
                               {17, 384, 8, 1, 1},
                               {2, 64, 6, 64, 40},
                               {2, 130, 16, 10, 3},
                               {1, 512, 16, 2, 1},
                               {4, 96, 5, 48, 7},
                               {5, 32, 4, 1, 1, -60.0f}}) {
      compare_routes(c, false, true, false);
      compare_routes(c, true, true, true);
      compare_routes(c, true, false, false);
    }
  });
}

// Ids that a program can use, whatever the scores are.
TEST(CudaRouting, PicksDifferentExpertsEvenAmongNanAndInfinity) {
  const Pair pair;
  constexpr int kExperts = 40, kTopK = 40;
  std::vector<float> logits(48);
  for (size_t i = 0; i < logits.size(); ++i)
    logits[i] = std::vector<float>{NAN, -NAN, INFINITY, -INFINITY, 1.0f}[i % 5];
  const Both<float> on(pair, logits);
  Routed found(*pair.gpu, kTopK);

  pair.gpu->route({.logits = on.gpu_mat(1, kExperts, 48),
                   .experts = kExperts,
                   .top_k = kTopK,
                   .ids = found.ids,
                   .weights = found.weights});
  pair.gpu->wait();

  std::sort(found.ids, found.ids + kTopK);
  for (int k = 0; k < kTopK; ++k) EXPECT_EQ(found.ids[k], k);
}

std::vector<int32_t> every(int step, int count, int first = 0) {
  std::vector<int32_t> rows(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) rows[static_cast<size_t>(i)] = first + i * step;
  return rows;
}
StepShape shape_of(int rows, int hidden) {
  return {.rows = rows, .experts = {.experts = 4, .top_k = 2, .hidden = hidden, .rows = rows}};
}

TEST(CudaRouting, RowsGoOutToAnyMemoryOfTheHost) {
  constexpr int kRows = 400;
  Pair::in_every_schedule([] {
    for (int hidden : {8, 76, 2100}) {
      Pair pair;
      pair.reserve(shape_of(kRows, hidden));
      const int64_t ld = round_up(hidden, kTileK), host_ld = ld + 3;
      const Both<bf16> x(pair, normal_bf16(kRows * ld, 1));
      std::vector<int32_t> scattered = every(3, 133);
      scattered.insert(scattered.end(), {398, 399});
      for (const std::vector<int32_t>& rows :
           {std::vector<int32_t>{}, {7}, {3, 5, 6}, every(1, 399, 1), every(2, 128), every(2, 129), scattered}) {
        std::vector<bf16> found((rows.size() + 1) * static_cast<size_t>(host_ld), 0x1234), expected = found;
        const int count = static_cast<int>(rows.size());

        pair.gpu->rows_out(x.gpu_mat(kRows, hidden, ld), rows, {found.data(), host_ld, count, hidden});
        pair.gpu->wait();
        pair.cpu->rows_out(x.cpu_mat(kRows, hidden, ld), rows, {expected.data(), host_ld, count, hidden});

        ASSERT_EQ(found, expected) << count << " rows of " << hidden;
      }
    }
  });
}

// Several at once, whose memory is used again at once: more than there is pinned memory for.
TEST(CudaRouting, SumsComeInInEveryForm) {
  constexpr int kRows = 150;
  const auto pool = std::make_unique<ThreadPool>(1);
  Pair::in_every_schedule([&] {
    for (int hidden : {8, 77, 1030})
      for (WireType type : {WireType::float64, WireType::float32, WireType::bf16}) {
        Pair pair;
        pair.reserve(shape_of(kRows, hidden));
        const int64_t ld = round_up(hidden, kPanel), stride = hidden + 3;
        std::vector<double> start(kRows * ld, 0.5);
        Both<double> y(pair, start);
        const std::vector<float> values = normal_floats(kRows * stride, 3);
        const std::vector<double> wide(values.begin(), values.end());
        std::vector<std::byte> sums(wide.size() * wire_bytes(type));
        for (const std::vector<int32_t>& rows :
             {every(1, kRows), {}, {149}, every(2, 75), every(-1, kRows, kRows - 1), every(7, 20)}) {
          const WireSums from{type, sums.data(), stride};
          to_wire(type, wide.data(), static_cast<int64_t>(wide.size()), sums.data(), *pool);
          pair.cpu->sums_in(from, rows, y.cpu_mat(kRows, hidden, ld));
          pair.gpu->sums_in(from, rows, y.gpu_mat(kRows, hidden, ld));
          std::fill(sums.begin(), sums.end(), std::byte{0x40});
        }
        y.expect_same("sums of " + std::to_string(hidden));
      }
  });
}

}  // namespace
}  // namespace kt
