#include "runtime/engine/engine_options.h"

#include <gtest/gtest.h>

#include <climits>

#include "tests/refusal_of.h"

namespace kt {
namespace {

ModelConfig model(int max_context) {
  ModelConfig m;
  m.max_context = max_context;
  m.layers.resize(1);
  return m;
}

TEST(EngineOptions, TheLargestContextsAndBatchesDoNotOverflow) {
  RunConfig run;
  run.max_running_requests = 192;

  for (const int context : {1 << 23, 1 << 25, 1 << 30, INT_MAX}) {
    const EngineConfig engine = engine_config(run, model(context));
    EXPECT_EQ(engine.kv_blocks, 1024) << context;
    EXPECT_EQ(longest_sequence(engine), 65536) << context;
  }
}

TEST(EngineOptions, TheLargestCacheDoesNotOverflow) {
  RunConfig run;
  run.max_total_tokens = INT_MAX;

  const EngineConfig engine = engine_config(run, model(1 << 30));

  EXPECT_EQ(engine.kv_blocks, INT_MAX / kBlockTokens);
  EXPECT_EQ(longest_sequence(engine), 1 << 30);
  EXPECT_EQ(cache_limits(engine).blocks, INT_MAX / kBlockTokens);
}

TEST(EngineOptions, MoreRequestsThanAStepHasRowsForAreRefused) {
  RunConfig run;
  run.max_running_requests = INT_MAX;

  EXPECT_NE(refusal_of([&] { engine_config(run, model(4096)); }, kExitUsage).find("at most 192"), std::string::npos);
}

}  // namespace
}  // namespace kt
