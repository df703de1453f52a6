#include "runtime/model/traffic.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(Traffic, SparseAttentionReadsPickedRowsAndAllIndexKeysBeyondTopK) {
  const MlaSpec mla{
      .kv_rank = 512, .indexer = IndexerSpec{.heads = 64, .head_dim = 128, .top_k = 2048}, .rope = {.dims = 64}};
  const double row = (512 + 64) * 2.0, key = 128 * 2.0;

  const SparseTraffic within = sparse_traffic(mla, {.first = 2047, .count = 1});
  EXPECT_EQ(within.rows, 2048 * row);
  EXPECT_EQ(within.index_keys, 0.0);
  const SparseTraffic beyond = sparse_traffic(mla, {.first = 65535, .count = 1});
  EXPECT_EQ(beyond.rows, 2048 * row);
  EXPECT_EQ(beyond.index_keys, 65536 * key);
  const SparseTraffic prefill = sparse_traffic(mla, {.first = 2048, .count = 2048});  // picks overlap
  EXPECT_EQ(prefill.rows, 4096 * row);
}

}  // namespace
}  // namespace kt
