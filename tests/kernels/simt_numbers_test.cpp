// The emulation's conversions, from what the formats' definitions say.

#include "kernels/simt/numbers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace simt {
namespace {

// Every float between two neighbours of a format goes to the nearer one, or to the even one.
template <class Code>
void expect_nearest(Code last, float (*wide)(Code), Code (*narrow)(float)) {
  for (Code code = 0; code < last; ++code)
    for (float sign : {1.0f, -1.0f}) {
      const auto next = static_cast<Code>(code + 1),
                 minus = static_cast<Code>(sign < 0 ? 1 << (8 * sizeof(Code) - 1) : 0);
      const float low = wide(code), high = wide(next), middle = low + (high - low) / 2;
      ASSERT_LT(low, high);
      const auto code_of = [&](float x) { return static_cast<Code>(narrow(sign * x) ^ minus); };
      ASSERT_EQ(code_of(low), code);
      ASSERT_EQ(code_of(middle), code % 2 ? next : code) << middle;
      ASSERT_EQ(code_of(std::nextafter(middle, low)), code) << middle;
      ASSERT_EQ(code_of(std::nextafter(middle, high)), next) << middle;
    }
}

TEST(Conversions, AreToTheNearest) {
  for (int e = 1; e < 31; ++e)
    for (int m = 0; m < 1024; ++m)
      ASSERT_EQ(float_from_half(static_cast<uint16_t>(e << 10 | m)),
                std::ldexp(1024.0f + static_cast<float>(m), e - 25));
  for (int e = 1; e < 16; ++e)
    for (int m = 0; m < 8 - (e == 15); ++m)
      ASSERT_EQ(float_from_e4m3(static_cast<uint8_t>(e << 3 | m)), std::ldexp(8.0f + static_cast<float>(m), e - 10));
  EXPECT_EQ(float_from_half(0x8001), -0x1p-24f);
  EXPECT_EQ(float_from_e4m3(3), 0x3p-9f);
  expect_nearest<uint16_t>(0x7bff, float_from_half, half_from_float);
  expect_nearest<uint8_t>(0x7e, float_from_e4m3, e4m3_from_float);
  expect_nearest<uint16_t>(0x7f7f, float_from_bf16, bf16_from_float);

  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(half_from_float(65520.0f), 0x7c00);
  EXPECT_EQ(half_from_float(-infinity), 0xfc00);
  EXPECT_EQ(e4m3_from_float(infinity), 0x7e);  // 448
  EXPECT_EQ(bf16_from_float(infinity), 0x7f80);
  EXPECT_EQ(half_from_float(NAN), 0x7fff);
  EXPECT_EQ(e4m3_from_float(NAN), 0x7f);
  EXPECT_EQ(bf16_from_float(NAN), 0x7fff);
}

}  // namespace
}  // namespace simt
