// Rows of a step: embedding, norms, products.

#include <cstring>

#include "kernels/cpu/device.h"

namespace kt {
namespace {

void add_row(float* x, const double* y, int n) {
  for (int i = 0; i < n; ++i) x[i] += static_cast<float>(y[i]);
}
void clear_row(const Mat<double>& y, int row) {
  std::memset(y.row(row), 0, static_cast<size_t>(y.ld) * sizeof(double));
}

Rows rows_of(const Mat<bf16>& x) { return {.data = x.at, .stride = x.ld, .count = x.rows}; }

}  // namespace

void CpuDevice::embed(const Mat<float>& x, const std::function<void(int row, bf16* to)>& read) {
  k_.split(x.rows, 1, [&](int begin, int end) {
    std::vector<bf16> row(static_cast<size_t>(x.columns));
    for (int r = begin; r < end; ++r) {
      read(r, row.data());
      for (int i = 0; i < x.columns; ++i) x.row(r)[i] = to_float(row[i]);
    }
  });
}

void CpuDevice::norm(const Mat<float>& x, const float* w, float eps, const Mat<bf16>& h, const Mat<double>& y) {
  k_.split(x.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      k_.ops.rms_norm(x.row(r), w, eps, x.columns, h.row(r));
      clear_row(y, r);
    }
  });
}

void CpuDevice::add_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) {
  k_.split(x.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      add_row(x.row(r), y.row(r), x.columns);
      k_.ops.rms_norm(x.row(r), w, eps, x.columns, h.row(r));
      clear_row(y, r);
    }
  });
}

void CpuDevice::last_norm(const Mat<float>& x, const Mat<double>& y, const float* w, float eps, const Mat<bf16>& h) {
  k_.split(static_cast<int64_t>(batch_->logit_rows.size()), 1, [&](int begin, int end) {
    for (int i = begin; i < end; ++i) {
      const int r = batch_->logit_rows[i];
      add_row(x.row(r), y.row(r), x.columns);
      k_.ops.rms_norm(x.row(r), w, eps, x.columns, h.row(i));
    }
  });
}

QuantScratch lay_out_quantised(Layout& layout, int64_t rows, int64_t columns) {
  return {.q = layout.array<int8_t>(rows * round_up(columns, kTileK)),
          .groups = layout.array<QuantGroup>(rows * ceil_div(columns, kTileK))};
}

Rows input_rows(const KernelContext& k, const Mat<bf16>& x, const PackedMatrix& w, const QuantScratch& room) {
  Rows rows = rows_of(x);
  if (!info(w.format).int8_activations) return rows;
  const int tiles = w.k_tiles();
  rows.q = room.q;
  rows.q_stride = tiles * kTileK;
  rows.groups = room.groups;
  rows.group_stride = w.groups();
  k.split(x.rows, 1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r)
      k.ops.quantize(x.row(r), tiles, w.group_tiles, room.q + r * rows.q_stride, room.groups + r * rows.group_stride);
  });
  return rows;
}

void CpuDevice::linear(const Mat<bf16>& x, std::initializer_list<Product> products) {
  int64_t panels = 0;
  Rows rows = rows_of(x);
  for (const Product& p : products) {
    panels += p.w.panels();
    if (info(p.w.format).int8_activations && !rows.q)
      rows = input_rows(k_, x, p.w, scratch_.inputs);  // of one k: alike for all of them
  }
  const int64_t step = k_.step(panels, 4);
  int64_t parts = 0;
  for (const Product& p : products) parts += ceil_div(p.w.panels(), step);
  k_.pool.run(parts, [&](int64_t part) {
    for (const Product& p : products) {
      const int64_t mine = ceil_div(p.w.panels(), step);
      if (part < mine)
        return k_.ops.matmul(rows, p.w, static_cast<int>(part * step),
                             static_cast<int>(std::min<int64_t>(p.w.panels(), (part + 1) * step)), p.out.at, p.out.ld);
      part -= mine;
    }
  });
}

void CpuDevice::linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                           const Mat<double>& y) {
  const Rows rows = input_rows(k_, x, w, scratch_.inputs);
  k_.split(w.panels(), 4,
           [&](int begin, int end) { k_.ops.matmul_add(rows, w, slice, begin, end, scale, y.at, y.ld, nullptr); });
}

void CpuDevice::swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) {
  const Rows rows = input_rows(k_, x, gate_up, scratch_.inputs);
  k_.split(gate_up.panels() / 2, 2, [&](int begin, int end) { k_.ops.swiglu(rows, gate_up, begin, end, h.at, h.ld); });
}

}  // namespace kt
