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

void CpuDevice::linear(const Mat<bf16>& x, std::initializer_list<Product> products) {
  int64_t panels = 0;
  for (const Product& p : products) panels += p.w.panels();
  const int64_t step = k_.step(panels, 4);
  int64_t parts = 0;
  for (const Product& p : products) parts += ceil_div(p.w.panels(), step);
  k_.pool.run(parts, [&](int64_t part) {
    for (const Product& p : products) {
      const int64_t mine = ceil_div(p.w.panels(), step);
      if (part < mine)
        return k_.ops.matmul(rows_of(x), p.w, static_cast<int>(part * step),
                             static_cast<int>(std::min<int64_t>(p.w.panels(), (part + 1) * step)), p.out.at, p.out.ld);
      part -= mine;
    }
  });
}

void CpuDevice::linear_sum(const Mat<bf16>& x, const PackedMatrix& w, int slice, const float* scale,
                           const Mat<double>& y) {
  k_.split(w.panels(), 4, [&](int begin, int end) {
    k_.ops.matmul_add(rows_of(x), w, slice, begin, end, scale, y.at, y.ld, nullptr);
  });
}

void CpuDevice::swiglu(const Mat<bf16>& x, const PackedMatrix& gate_up, const Mat<bf16>& h) {
  k_.split(gate_up.panels() / 2, 2,
           [&](int begin, int end) { k_.ops.swiglu(rows_of(x), gate_up, begin, end, h.at, h.ld); });
}

}  // namespace kt
