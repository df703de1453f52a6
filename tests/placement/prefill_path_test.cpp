#include "runtime/placement/prefill_path.h"

#include <gtest/gtest.h>

namespace kt {
namespace {

TEST(PrefillPath, AThresholdIsInclusiveAndZeroIsNever) {
  EXPECT_EQ(PrefillPath(0).choose(100000).path, Path::hybrid);
  EXPECT_EQ(PrefillPath(512).choose(511).path, Path::hybrid);
  EXPECT_EQ(PrefillPath(512).choose(512).path, Path::layerwise);
  EXPECT_EQ(PrefillPath(1).choose(0).path, Path::hybrid);  // only decode rows
}

PrefillPath measured() {
  PrefillPath path(-1);
  for (int rows : {64, 256, 1024}) {
    path.measured(Path::hybrid, rows, 0.001 * rows);            // crosses
    path.measured(Path::layerwise, rows, 0.3 + 0.0004 * rows);  // at 500 rows
  }
  return path;
}

TEST(PrefillPath, ChoosesTheFasterBetweenBelowAndAboveWhatWasMeasured) {
  const PrefillPath path = measured();
  EXPECT_EQ(path.choose(16).path, Path::hybrid);
  EXPECT_EQ(path.choose(499).path, Path::hybrid);
  EXPECT_EQ(path.choose(501).path, Path::layerwise);
  EXPECT_EQ(path.choose(4096).path, Path::layerwise);
  EXPECT_NEAR(path.choose(700).hybrid_s, 0.7, 1e-9);
  EXPECT_NEAR(path.choose(2000).layerwise_s, 1.1, 1e-9);
}

TEST(PrefillPath, SaysFromWhereOnItIsLayerwise) {
  PrefillPath path = measured();
  EXPECT_EQ(path.layerwise_from(4096), 501);
  EXPECT_EQ(path.layerwise_from(400), 0);
  EXPECT_EQ(PrefillPath(512).layerwise_from(4096), 512);
  EXPECT_EQ(PrefillPath(0).layerwise_from(4096), 0);
}

TEST(PrefillPath, FollowsWhatStepsTakeLater) {
  PrefillPath path = measured();
  for (int i = 0; i < 30; ++i) path.measured(Path::layerwise, 1024, 2.0);  // a slower link
  EXPECT_EQ(path.choose(1024).path, Path::hybrid);
}

}  // namespace
}  // namespace kt
