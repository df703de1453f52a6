#include "runtime/plan/hardware.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::HasSubstr;

Hardware read(std::string_view text) {
  const TempFolder folder;
  folder.write("box.yaml", text);
  return read_hardware(folder.path() / "box.yaml");
}

std::string refusal(std::string_view text) {
  return refusal_of([&] { read(text); }, kExitUsage);
}

TEST(Hardware, IsNamedAfterItsFileAndTakesDashesOrUnderscores) {
  const Hardware h = read("nodes: 2\nmemory_gb: 512.5\ngpus: 1\ngpu-memory-gb: 48\n");

  EXPECT_EQ(h.name, "box");
  EXPECT_EQ(h.nodes, 2);
  EXPECT_EQ(h.memory_gb, 512.5);
  EXPECT_EQ(h.gpu_memory_gb, 48);
  EXPECT_EQ(h.network_gbs, 0);
}

TEST(Hardware, RefusalsNameFileLineAndWhatWasExpected) {
  EXPECT_THAT(
      refusal("memory-gb: 1\ngpu-memory: 2\n"),
      AllOf(HasSubstr("box.yaml:2"), HasSubstr("unknown key 'gpu-memory'; the nearest one is 'gpu-memory-gb'")));
  EXPECT_THAT(refusal("memory-gb: many\n"), HasSubstr("box.yaml:1: memory-gb: expected a number from 0"));
  EXPECT_THAT(refusal("memory-gb: nan\n"), HasSubstr("expected a number"));
  EXPECT_THAT(refusal("memory-gb: -1\n"), HasSubstr("expected a number"));
  EXPECT_THAT(refusal("memory-gb: 1\nnodes: 0\n"), HasSubstr("nodes: expected a whole number from 1"));
  EXPECT_THAT(refusal("memory-gb: 1\ncores: 1.5\n"), HasSubstr("cores: expected a whole number"));
  EXPECT_THAT(refusal("memory-gb: 1\nmemory_gb: 2\n"), HasSubstr("box.yaml:2: memory-gb: expected once"));
  EXPECT_THAT(refusal("memory-gb: [1]\n"), HasSubstr("expected one value"));
  EXPECT_THAT(refusal("nodes: 1\n"), HasSubstr("memory-gb is required"));
  EXPECT_THAT(refusal("memory-gb: 1\ngpus: 1\n"), HasSubstr("gpu-memory-gb is required"));
  EXPECT_THAT(refusal("a: [\n"), HasSubstr("not valid YAML"));
  EXPECT_THAT(refusal("just text\n"), HasSubstr("'key: value'"));
}

TEST(Hardware, EveryExampleCanBeRead) {
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(KTMPI_SOURCE_DIR "/configs/hardware")) {
    EXPECT_GT(read_hardware(file.path()).memory_gb, 0) << file.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST(Hardware, ThisMachineHasCoresAndMemory) {
  const Hardware h = this_machine();

  EXPECT_GE(h.cores, 1);
  EXPECT_GE(h.numa_nodes, 1);
  EXPECT_GT(h.memory_gb, 0.0);
}

}  // namespace
}  // namespace kt
