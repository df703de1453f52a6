#include "runtime/model/dispatch.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <numeric>

#include "runtime/base/error.h"

namespace kt {
namespace {

// ask, layer, phase, rows, top_k, hidden, late
std::vector<std::byte> message(std::array<int32_t, 7> header) {
  std::vector<std::byte> bytes(sizeof header);
  std::memcpy(bytes.data(), header.data(), sizeof header);
  return bytes;
}

TEST(Dispatch, ReadsRowsBack) {
  const std::vector<int32_t> ids = {0, -1, 3, 2};
  const std::vector<float> weights = {0.5f, 0.25f, 1.0f, 0.0f};
  const std::vector<int32_t> rows = {1};
  std::vector<std::byte> room;

  bf16* to = encode_rows(7, Phase::decode, rows, {.ids = ids, .weights = weights, .rows = 2, .top_k = 2}, {}, 8, room);
  std::iota(to, to + 8, bf16{11});
  const DispatchMessage m = decode_dispatch(room, 4);

  EXPECT_EQ(m.ask, Ask::compute);
  EXPECT_EQ(m.layer, 7);
  EXPECT_EQ(m.phase, Phase::decode);
  EXPECT_EQ(m.hidden, 8);
  EXPECT_EQ(std::vector<int32_t>(m.now.ids.begin(), m.now.ids.end()), (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(std::vector<float>(m.now.weights.begin(), m.now.weights.end()), (std::vector<float>{1.0f, 0.0f}));
  EXPECT_EQ(m.rows[0], 11);
  EXPECT_EQ(m.rows[7], 18);
  EXPECT_THROW(decode_dispatch(room, 3), Error);
  EXPECT_THROW(decode_dispatch(std::span(room).first(room.size() - 1), 4), Error);
}

// 12 bytes for each of 2^30 (2^30 + 1) pairs and 2 for each of 2^30 (2^31 - 6) values are 0 modulo 2^64.
TEST(Dispatch, SizesBeyond64BitsAreRefused) {
  EXPECT_THROW(decode_dispatch(message({0, 0, 0, 1 << 30, (1 << 30) + 1, 2'147'483'642, 1}), 8), Error);
}

TEST(Dispatch, AnUnknownAskIsRefused) {
  EXPECT_NO_THROW(decode_dispatch(message({3, 0, 0, 0, 0, 0, 0}), 8));
  EXPECT_THROW(decode_dispatch(message({4, 0, 0, 0, 0, 0, 0}), 8), Error);
  EXPECT_THROW(decode_dispatch(message({-1, 0, 0, 0, 0, 0, 0}), 8), Error);
}

}  // namespace
}  // namespace kt
