// Embedding and norms on the emulated device, bit for bit.

#include "tests/kernels/cuda_pair.h"

namespace kt {
namespace {

constexpr float kEps = 1e-6f;

// Every pattern of bits, NaN and numbers below the smallest normal one among them.
void put_row(int row, int columns, bf16* to) {
  for (int i = 0; i < columns; ++i) to[i] = static_cast<bf16>(row * 7919 + i * 2654435761u);
}

TEST(CudaRows, EmbeddingWidensWhatIsRead) {
  Pair pair;
  pair.reserve({.rows = 64, .context = 64});
  const auto embed = [&](int rows, int columns) {
    SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
    const int64_t ld = round_up(columns, 16);
    const Both<float> x(pair, static_cast<size_t>(rows * ld));
    const auto read = [&](int row, bf16* to) { put_row(row, columns, to); };
    pair.cpu->embed(x.cpu_mat(rows, columns, ld), read);
    pair.gpu->embed(x.gpu_mat(rows, columns, ld), read);
    x.expect_same("embedded");
  };
  Pair::in_every_schedule([&] {
    for (int rows : {0, 1, 5, 64})
      for (int columns : {33, 80, 256}) embed(rows, columns);
  });
  simt::emulation.pace = simt::Emulation::Pace::kLazy;                 // a piece must wait for the last one
  embed(2 * static_cast<int>(kEmbeddedBytes) / (2 * 8192) + 3, 8192);  // in three pieces
  simt::emulation = {};
}

struct Rows {
  int rows, columns;
  int64_t ld = round_up(columns, 16), h_ld = round_up(columns, 32);
  Both<float> x, w;
  Both<double> y;
  Both<bf16> h;

  Rows(const Pair& pair, int rows, int columns, float scale)
      : rows(rows),
        columns(columns),
        x(pair, normal_floats(static_cast<size_t>(rows * ld), 1, scale)),
        w(pair, normal_floats(static_cast<size_t>(columns), 2)),
        y(pair, doubles(normal_floats(static_cast<size_t>(rows * ld), 3, scale))),
        h(pair, std::vector<bf16>(static_cast<size_t>(rows * h_ld), 0x3f80)) {}

  static std::vector<double> doubles(const std::vector<float>& x) {
    std::vector<double> out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] + 1e-9 * static_cast<double>(i % 7));
    return out;
  }
  void expect_same() const {
    x.expect_same("x");
    y.expect_same("y");
    h.expect_same("h");
  }
};

// Small numbers: squares that are zero, and sums that are.
void on_all_shapes(const std::function<void(Pair& pair, int rows, int columns, float scale)>& run) {
  Pair pair;
  pair.reserve({.rows = 64, .context = 64});
  Pair::in_every_schedule([&] {
    for (int rows : {0, 1, 3, 17})
      for (int columns : {16, 33, 80, 1000})
        for (float scale : {1.0f, 1e-19f, 1e-38f}) {
          SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns) + ", " + std::to_string(scale));
          run(pair, rows, columns, scale);
        }
  });
  run(pair, 2, 7168, 3.0f);
  run(pair, 2, 26000, 1.0f);  // more than shared memory holds
}

TEST(CudaRows, NormsAndClearsSums) {
  on_all_shapes([](Pair& pair, int rows, int columns, float scale) {
    const Rows m(pair, rows, columns, scale);
    pair.cpu->norm(m.x.cpu_mat(rows, columns, m.ld), m.w.cpu(), kEps, m.h.cpu_mat(rows, columns, m.h_ld),
                   m.y.cpu_mat(rows, columns, m.ld));
    pair.gpu->norm(m.x.gpu_mat(rows, columns, m.ld), m.w.gpu(), kEps, m.h.gpu_mat(rows, columns, m.h_ld),
                   m.y.gpu_mat(rows, columns, m.ld));
    m.expect_same();
  });
}

TEST(CudaRows, AddsSumsAndNorms) {
  on_all_shapes([](Pair& pair, int rows, int columns, float scale) {
    const Rows m(pair, rows, columns, scale);
    pair.cpu->add_norm(m.x.cpu_mat(rows, columns, m.ld), m.y.cpu_mat(rows, columns, m.ld), m.w.cpu(), kEps,
                       m.h.cpu_mat(rows, columns, m.h_ld));
    pair.gpu->add_norm(m.x.gpu_mat(rows, columns, m.ld), m.y.gpu_mat(rows, columns, m.ld), m.w.gpu(), kEps,
                       m.h.gpu_mat(rows, columns, m.h_ld));
    m.expect_same();
  });
}

TEST(CudaRows, TheLastNormTakesTheRowsWhoseLogitsAreWanted) {
  on_all_shapes([](Pair& pair, int rows, int columns, float scale) {
    const Rows m(pair, rows, columns, scale);
    Batch batch;
    batch.positions.assign(static_cast<size_t>(rows), 0);
    for (int r = rows % 2; r < rows; r += 2) batch.logit_rows.push_back(r);
    pair.begin(batch);
    pair.cpu->last_norm(m.x.cpu_mat(rows, columns, m.ld), m.y.cpu_mat(rows, columns, m.ld), m.w.cpu(), kEps,
                        m.h.cpu_mat(rows, columns, m.h_ld));
    pair.gpu->last_norm(m.x.gpu_mat(rows, columns, m.ld), m.y.gpu_mat(rows, columns, m.ld), m.w.gpu(), kEps,
                        m.h.gpu_mat(rows, columns, m.h_ld));
    m.expect_same();
  });
}

}  // namespace
}  // namespace kt
