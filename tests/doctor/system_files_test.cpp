#include "runtime/doctor/system_files.h"

#include <gmock/gmock.h>

#include "tests/doctor/fake_machine.h"

namespace kt {
namespace {

using testing::ElementsAre;
using testing::Pair;
using testing::UnorderedElementsAre;

// Where version 1 has the controllers, and beside it version 2 without any.
constexpr std::string_view kMountsV1 =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
constexpr std::string_view kMountsV2 = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(SystemFiles, MemoryTablesAreInBytesWithAndWithoutANode) {
  const FakeMachine machine;
  machine.write("a", "MemTotal:       24684084 kB\nHugePages_Total:       0\nMemFree: 1 kB\n");
  machine.write("b", "Node 0 MemTotal:       2 kB\nNode 0 Active(anon): 3 kB\n");

  EXPECT_THAT(read_memory_table(machine.root() / "a"),
              UnorderedElementsAre(Pair("MemTotal", 24684084LL * 1024), Pair("MemFree", 1024)));
  EXPECT_THAT(read_memory_table(machine.root() / "b"),
              UnorderedElementsAre(Pair("MemTotal", 2048), Pair("Active(anon)", 3072)));
  EXPECT_TRUE(read_memory_table(machine.root() / "absent").empty());
}

TEST(SystemFiles, TheChosenWordStandsInBrackets) {
  EXPECT_EQ(chosen_word("always [madvise] never"), "madvise");
  EXPECT_EQ(chosen_word("always madvise never"), "");
  EXPECT_EQ(chosen_word("] ["), "");
}

TEST(SystemFiles, TheProcessorIsTheFirstOneOfCpuinfo) {
  const FakeMachine machine;
  machine.write("proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: A Xeon\n"
                "flags\t\t: fpu avx2 hypervisor\npower management:\n\nprocessor\t: 1\nmodel name\t: Another\n");

  const Processor processor = read_processor(machine.root());

  EXPECT_EQ(processor.vendor, "GenuineIntel");
  EXPECT_EQ(processor.name, "A Xeon");
  EXPECT_EQ(processor.family, 6);
  EXPECT_EQ(processor.model, 207);
  EXPECT_THAT(processor.flags, UnorderedElementsAre("fpu", "avx2", "hypervisor"));
  EXPECT_TRUE(processor.is_virtual());
}

TEST(SystemFiles, LimitsAreFoundByTheirNames) {
  const FakeMachine machine;
  machine.write("proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n"
                "Max open files            1024                 524288               files     \n"
                "Max address space         unlimited            unlimited            bytes     \n");

  EXPECT_EQ(read_limit(machine.root(), "Max open files").soft, 1024);
  EXPECT_EQ(read_limit(machine.root(), "Max open files").hard, 524288);
  EXPECT_EQ(read_limit(machine.root(), "Max address space").soft, std::nullopt);
  EXPECT_EQ(read_limit(machine.root(), "Max locked memory").hard, std::nullopt);
}

TEST(ControlGroups, TheTightestGroupOnTheWayUpCounts) {
  const FakeMachine machine;
  machine.write("proc/self/mountinfo", kMountsV2);
  machine.write("proc/self/cgroup", "0::/system.slice/ktmpi.service\n");
  machine.write("sys/fs/cgroup/system.slice/memory.max", "8000000000\n");
  machine.write("sys/fs/cgroup/system.slice/memory.current", "5000000000\n");
  machine.write("sys/fs/cgroup/system.slice/memory.stat", "anon 1\ninactive_file 1000000000\nfile 2\n");
  machine.write("sys/fs/cgroup/system.slice/ktmpi.service/memory.max", "max\n");
  machine.write("sys/fs/cgroup/system.slice/ktmpi.service/memory.current", "5000\n");
  machine.write("sys/fs/cgroup/system.slice/ktmpi.service/cpu.max", "150000 100000\n");
  machine.write("sys/fs/cgroup/system.slice/cpu.max", "max 100000\n");

  const auto memory = read_group_memory(machine.root());

  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->limit, 8'000'000'000);
  EXPECT_EQ(memory->left(), 4'000'000'000);
  EXPECT_EQ(memory->folder.filename(), "system.slice");
  EXPECT_EQ(read_group_cores(machine.root()), 1.5);
}

TEST(ControlGroups, Version1HasOtherFilesAndNoLimitIsALargeNumber) {
  const FakeMachine machine;
  machine.write("proc/self/mountinfo", kMountsV1);
  machine.write("proc/self/cgroup", "4:memory:/job/7\n1:cpu,cpuacct:/\n0::/\n");
  machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  machine.write("sys/fs/cgroup/memory/job/7/memory.limit_in_bytes", "9000\n");
  machine.write("sys/fs/cgroup/memory/job/7/memory.usage_in_bytes", "12000\n");
  machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");

  const auto memory = read_group_memory(machine.root());

  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->limit, 9000);
  EXPECT_EQ(memory->left(), 0);
  EXPECT_EQ(read_group_cores(machine.root()), std::nullopt);
}

TEST(ControlGroups, AContainerMaySeeItsGroupAtTheTop) {
  const FakeMachine machine;
  machine.write("proc/self/mountinfo", "9 1 0:27 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
  machine.write("proc/self/cgroup", "0::/docker/abc\n");
  machine.write("sys/fs/cgroup/memory.max", "7000\n");
  machine.write("sys/fs/cgroup/memory.current", "2000\n");

  EXPECT_EQ(read_group_memory(machine.root())->left(), 5000);
}

TEST(ControlGroups, WithoutTheirFilesNothingIsLimited) {
  const FakeMachine machine;

  EXPECT_FALSE(read_group_memory(machine.root()));
  EXPECT_FALSE(read_group_cores(machine.root()));
}

// A memory device of SMBIOS 2.7.
std::string memory_device(int width, int size, int speed) {
  std::string raw(0x22, '\0');
  const auto word = [&](size_t at, int value) {
    raw[at] = static_cast<char>(value & 255);
    raw[at + 1] = static_cast<char>(value >> 8);
  };
  raw[0] = 17;
  raw[1] = 0x22;
  word(0x0a, width);
  word(0x0c, size);
  word(0x15, speed + 800);  // what it could do
  word(0x20, speed);
  return raw + std::string("DIMM_A1\0\0", 9);
}

TEST(SystemFiles, MemoryModulesAreThoseThatAreThereAndKnown) {
  const FakeMachine machine;
  const auto add = [&](int number, const std::string& raw) {
    machine.write("sys/firmware/dmi/entries/17-" + std::to_string(number) + "/raw", raw);
  };
  add(0, memory_device(64, 32768, 4800));
  add(1, memory_device(64, 0, 4800));          // an empty place
  add(2, memory_device(0xffff, 32768, 4800));  // a virtual machine's
  add(3, std::string("\x11\xff\x00", 3));      // cut off
  machine.write("sys/firmware/dmi/entries/16-0/raw", memory_device(64, 32768, 4800));

  const std::vector<MemoryModule> modules = read_memory_modules(machine.root());

  ASSERT_EQ(modules.size(), 1u);
  EXPECT_EQ(modules[0].mega_transfers, 4800);
  EXPECT_EQ(modules[0].bytes_wide, 8);
}

}  // namespace
}  // namespace kt
