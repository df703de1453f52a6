#pragma once

// What tests of kernels share: one body for every table of this machine, random values, and comparison to the bit.

#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace kt {

inline const Ops& ref() { return *available_ops().front(); }

class OnTable : public testing::TestWithParam<const Ops*> {
 protected:
  explicit OnTable(unsigned seed) : random_(seed) {}
  // Denormals are zero wherever kernels run.
  void SetUp() override {
    mode_ = _mm_getcsr();
    _mm_setcsr(mode_ | 0x8040);
  }
  void TearDown() override { _mm_setcsr(mode_); }
  const Ops& ops() const { return *GetParam(); }

  std::vector<float> floats(size_t n, float scale = 1.0f) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> v(n);
    for (float& x : v) x = normal(random_);
    return v;
  }
  std::vector<bf16> halves(size_t n, float scale = 1.0f) {
    std::vector<bf16> v;
    for (const float x : floats(n, scale)) v.push_back(to_bf16(x));
    return v;
  }

  std::mt19937 random_;

 private:
  unsigned mode_ = 0;
};

inline auto every_table() { return testing::ValuesIn(available_ops().begin(), available_ops().end()); }
inline std::string table_name(const testing::TestParamInfo<const Ops*>& table) {
  std::string name(table.param->name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

template <class T>
void expect_same_bits(const std::vector<T>& found, const std::vector<T>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    ASSERT_EQ(0, std::memcmp(&found[i], &expected[i], sizeof(T)))
        << "element " << i << ": " << +found[i] << ", expected " << +expected[i];
}

}  // namespace kt
