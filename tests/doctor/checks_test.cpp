#include "runtime/doctor/checks.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "tests/doctor/fake_machine.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;

template <class Found>
auto is(Severity severity, const Found& found) {
  return AllOf(Field("severity", &Finding::severity, severity), Field("found", &Finding::found, HasSubstr(found)));
}
auto advises(std::string_view what) { return Field("advice", &Finding::advice, HasSubstr(std::string(what))); }

// ---- kernels

Processor processor_with(std::initializer_list<std::string> flags, int64_t model = 207) {
  return {.vendor = "GenuineIntel", .name = "A Xeon", .family = 6, .model = model, .flags = flags};
}

TEST(DoctorKernels, AVirtualMachineMayKeepAmxBack) {
  const Processor p = processor_with({"hypervisor", "amx_tile"});

  EXPECT_THAT(kernel_findings(p, {"ref", "avx2", "avx512", "avx512-vnni", "avx512-bf16"}, "avx512-bf16"),
              ElementsAre(is(Severity::ok, "avx512-bf16, the best of avx2, avx512"),
                          is(Severity::note, "this virtual machine was not given amx_bf16, amx_int8")));
}

TEST(DoctorKernels, TheSystemMayRefuseTilesThatTheProcessorHas) {
  const Processor p = processor_with({"amx_tile", "amx_bf16", "amx_int8"});

  EXPECT_THAT(kernel_findings(p, {"ref", "avx2", "avx512", "avx512-vnni", "avx512-bf16"}, "avx512-bf16"),
              Contains(is(Severity::note, "the system refuses its tiles")));
}

TEST(DoctorKernels, WhatTheProcessorLacksIsNamedAndNoFault) {
  const Processor p = processor_with({"avx2", "fma"}, 85);

  EXPECT_THAT(kernel_findings(p, {"ref", "avx2"}, "avx2"),
              ElementsAre(AllOf(is(Severity::ok, "avx2, the best of avx2 on A Xeon"),
                                is(Severity::ok, "avx512 (no avx512f, avx512bw, avx512dq, avx512vl)"),
                                is(Severity::ok, "amx (no amx_bf16, amx_tile, amx_int8)"))));
}

TEST(DoctorKernels, PlainLoopsAreAProblemAndALesserTableANote) {
  EXPECT_THAT(kernel_findings(processor_with({}, 1), {"ref"}, "ref"),
              ElementsAre(is(Severity::problem, "plain loops")));
  EXPECT_THAT(kernel_findings(processor_with({}, 1), {"ref", "avx2"}, "ref"),
              ElementsAre(is(Severity::note, "ref, as KTMPI_ISA says; avx2 runs here too")));
}

// ---- cores, nodes, clock

TEST(DoctorCores, ABindingIsANoteAndAQuotaAProblem) {
  const FakeMachine machine;
  machine.write("proc/self/mountinfo", "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "0::/\n");
  machine.write("sys/fs/cgroup/cpu.max", "250000 100000\n");
  machine.write("proc/loadavg", "0.10 0.20 0.30 1/100 5\n");
  Site site = machine.site("numa:1 core:4 pu:2");
  EXPECT_THAT(check_cores(site), ElementsAre(is(Severity::ok, "4 cores with 8 hardware threads"),
                                             AllOf(is(Severity::problem, "2.5 cores' time for threads on 4 cores"),
                                                   advises("together 2"))));

  site.allowed_cpus = {0, 1};
  EXPECT_THAT(check_cores(site), ElementsAre(is(Severity::ok, "4 cores"), AllOf(is(Severity::note, "left 1 of 4 cores"),
                                                                                advises("--bind-to none"))));
}

TEST(DoctorCores, OtherWorkIsSaid) {
  const FakeMachine machine;
  machine.write("proc/loadavg", "3.50 0.20 0.30 1/100 5\n");

  EXPECT_THAT(check_cores(machine.site()),
              Contains(is(Severity::note, "a load of 3.5 in the last minute, on 4 cores")));
}

TEST(DoctorNuma, UnevenAndFullNodesAreSaid) {
  const FakeMachine machine;
  const auto node = [&](int n, int total, int free, int cached) {
    machine.write("sys/devices/system/node/node" + std::to_string(n) + "/meminfo",
                  fmt::format("Node {0} MemTotal: {1} kB\nNode {0} MemFree: {2} kB\nNode {0} FilePages: {3} kB\n", n,
                              total * 1000, free * 1000, cached * 1000));
  };
  machine.write("sys/devices/system/node/online", "0-1\n");
  node(0, 1000, 500, 400);
  node(1, 1000, 300, 700);
  EXPECT_THAT(check_numa(machine.site()), ElementsAre(is(Severity::ok, "2 nodes with 1.0 GB each")));

  node(1, 500, 100, 0);
  EXPECT_THAT(check_numa(machine.site()), ElementsAre(is(Severity::note, "node1 with 0.5 GB and node0 with 1.0 GB"),
                                                      is(Severity::note, "node1 has 0.1 of 0.5 GB free")));
}

TEST(DoctorClock, PowersaveIsWhatItsDriverMakesOfIt) {
  const FakeMachine machine;
  EXPECT_THAT(check_clock(machine.site()), ElementsAre(is(Severity::ok, "does not set")));

  const std::string folder = "sys/devices/system/cpu/cpu0/cpufreq/";
  machine.write(folder + "scaling_governor", "powersave\n");
  machine.write(folder + "scaling_driver", "acpi-cpufreq\n");
  EXPECT_THAT(check_clock(machine.site()), ElementsAre(is(Severity::problem, "the lowest frequency")));

  machine.write(folder + "scaling_driver", "intel_pstate\n");
  machine.write(folder + "energy_performance_preference", "balance_performance\n");
  EXPECT_THAT(check_clock(machine.site()), ElementsAre(is(Severity::ok, "powersave of 1 threads (intel_pstate)")));

  machine.write(folder + "energy_performance_preference", "power\n");
  EXPECT_THAT(check_clock(machine.site()), ElementsAre(is(Severity::note, "preference power")));
}

// ---- memory

TEST(DoctorMemory, WhatOthersHoldAndGroupsAllowIsSaid) {
  const FakeMachine machine;
  machine.write("proc/meminfo",
                "MemTotal: 100000000 kB\nMemAvailable: 40000000 kB\nSwapTotal: 10000000 kB\nSwapFree: 5000000 kB\n");
  machine.write("proc/self/mountinfo", "30 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "0::/\n");
  machine.write("sys/fs/cgroup/memory.max", "20000000000\n");
  machine.write("sys/fs/cgroup/memory.current", "5000000000\n");

  EXPECT_THAT(check_memory(machine.site()), ElementsAre(is(Severity::note, "41.0 of 102.4 GB are available"),
                                                        is(Severity::ok, "allows 20.0 GB, of which 15.0 GB are left"),
                                                        is(Severity::note, "5.1 GB are swapped out")));
  EXPECT_EQ(memory_left(machine.site()), 15'000'000'000);
}

TEST(DoctorHugePages, NeverCostsSpeed) {
  const FakeMachine machine;
  EXPECT_THAT(check_huge_pages(machine.site()), ElementsAre(is(Severity::note, "no transparent huge pages")));

  const std::string folder = "sys/kernel/mm/transparent_hugepage/";
  machine.write(folder + "enabled", "always madvise [never]\n");
  EXPECT_THAT(check_huge_pages(machine.site()),
              ElementsAre(AllOf(is(Severity::note, "switched off"), advises("madvise"))));

  machine.write(folder + "enabled", "[always] madvise never\n");
  machine.write(folder + "shmem_enabled", "always within_size [advise] never deny force\n");
  EXPECT_THAT(check_huge_pages(machine.site()), ElementsAre(is(Severity::ok, "always; of shared memory: advise")));
}

TEST(DoctorLimits, AnAddressSpaceBelowTheMemoryIsAProblem) {
  const FakeMachine machine;
  machine.write("proc/meminfo", "MemTotal: 1000000 kB\n");
  machine.write("proc/self/limits",
                "Max address space         500000000            unlimited  bytes\n"
                "Max open files            100                  200        files\n"
                "Max locked memory         8388608              8388608    bytes\n");
  EXPECT_THAT(check_limits(machine.site()),
              ElementsAre(is(Severity::note, "at most 200 open files"),
                          AllOf(is(Severity::problem, "Max address space: 0.5 GB, of 1.0 GB"), advises("ulimit -v"))));

  machine.write("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
  EXPECT_THAT(check_limits(machine.site()), Contains(is(Severity::note, "may be locked")));
}

TEST(DoctorSharedMemory, APlaceForIt) {
  const FakeMachine machine;
  EXPECT_THAT(check_shared_memory(machine.site()), ElementsAre(is(Severity::problem, "/dev/shm is not there")));

  machine.write("dev/shm/other", "");
  EXPECT_THAT(check_shared_memory(machine.site("numa:4 core:2 pu:1")), ElementsAre(is(Severity::ok, "for 5 ranks")));

  machine.write("dev/shm/ktmpi-bank-0123", std::string(3 << 20, 'x'));
  EXPECT_THAT(check_shared_memory(machine.site()),
              ElementsAre(testing::_,
                          AllOf(is(Severity::note, "3.1 MB of experts that no rank uses"), advises("rm /dev/shm/"))));
}

// ---- programs and files

TEST(DoctorLauncher, IsToldByItsVariables) {
  Site site;
  EXPECT_EQ(find_launcher(site).name, "");

  site.environment = {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}};  // a batch script
  EXPECT_EQ(find_launcher(site).name, "");

  site.environment = {{"SLURM_STEP_NUM_TASKS", "4"}};
  EXPECT_EQ(find_launcher(site).name, "srun without PMIx");
  EXPECT_EQ(find_launcher(site).ranks, 4);
  EXPECT_FALSE(find_launcher(site).is_ours);

  site.environment["PMIX_RANK"] = "2";
  EXPECT_TRUE(find_launcher(site).is_ours);
  EXPECT_EQ(find_launcher(site).ranks, 4);

  site.environment = {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}};
  EXPECT_FALSE(find_launcher(site).is_ours);
  EXPECT_EQ(find_launcher(site).ranks, 3);

  site.environment["OMPI_COMM_WORLD_SIZE"] = "2";
  EXPECT_EQ(find_launcher(site).name, "Open MPI's mpirun");
  EXPECT_EQ(find_launcher(site).ranks, 2);
}

TEST(DoctorMpi, AnotherLaunchersRanksAreANote) {
  Site site{.mpi_library = "Open MPI v4.1.4"};
  site.environment = {{"PMI_RANK", "1"}, {"PMI_SIZE", "3"}};

  EXPECT_THAT(check_mpi(site), ElementsAre(is(Severity::note, "a launcher with PMI with 3 ranks")));
}

TEST(DoctorMpi, TheMpirunOfPathMustBeTheLibrarys) {
  const FakeMachine machine;
  const auto mpirun = [&](const std::string& says) {
    machine.write("bin/mpirun", "#!/bin/sh\necho '" + says + "'\n");
    std::filesystem::permissions(machine.root() / "bin/mpirun", std::filesystem::perms::owner_all);
  };
  Site site{.mpi_library = "Open MPI v4.1.4"};
  site.environment["PATH"] = (machine.root() / "bin").string();
  const auto second = [&] { return check_mpi(site).at(1); };
  EXPECT_THAT(second(), is(Severity::note, "PATH has no mpirun"));

  mpirun("mpirun (Open MPI) 5.0.1");
  EXPECT_THAT(second(), is(Severity::problem, "every process would be rank 0"));

  mpirun("HYDRA build details:");
  EXPECT_THAT(second(), is(Severity::problem, "\"HYDRA build details:\""));

  mpirun("mpirun (Open MPI) 4.1.4");
  EXPECT_THAT(second(), is(Severity::ok, "of the same version"));
}

TEST(DoctorNetwork, DevicesWithoutAnActivePortAreSaid) {
  const FakeMachine machine;
  EXPECT_THAT(check_network(machine.site()), ElementsAre(is(Severity::ok, "no RDMA devices")));

  machine.write("sys/class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
  EXPECT_THAT(check_network(machine.site()), ElementsAre(is(Severity::note, "mlx5_0, no port of which is active")));
}

TEST(DoctorNetwork, InterfacesThatAreNamedAndAbsentAreSaid) {
  const FakeMachine machine;
  for (const char* name : {"sys/class/net/lo/mtu", "sys/class/net/eth0/mtu", "sys/class/infiniband/mlx5_0/node_type"})
    machine.write(name, "1\n");
  Site site = machine.site();
  const auto found = [&](const std::string& variable, const std::string& value) {
    site.environment = {{variable, value}};
    const Findings all = check_network(site);
    return all.back().found.find(variable) == std::string::npos ? Finding() : all.back();
  };

  for (const char* fine : {"eth0", "lo,eth0", "mlx5_0:1", "all", "10.0.0.0/8,eth0", "^eth7", ""})
    for (const char* variable : {"UCX_NET_DEVICES", "OMPI_MCA_btl_tcp_if_include"})
      EXPECT_EQ(found(variable, fine).found, "") << variable << "=" << fine;
  EXPECT_THAT(found("UCX_NET_DEVICES", "eth0,eth7,mlx5_1:1"),
              AllOf(is(Severity::note, "UCX_NET_DEVICES names eth7, mlx5_1, which this machine does not have"),
                    advises("here are eth0, lo, mlx5_0")));
  EXPECT_THAT(found("OMPI_MCA_btl_tcp_if_include", "eth7"), is(Severity::problem, "names eth7"));
  site.machines = 2;
  EXPECT_THAT(found("UCX_NET_DEVICES", "eth7"), is(Severity::problem, "names eth7"));
  site.machines = 1, site.run.transport = "ucx";
  EXPECT_THAT(found("UCX_NET_DEVICES", "eth7"), is(Severity::problem, "names eth7"));
}

TEST(DoctorHubCache, IsWhereItsVariablesSay) {
  const FakeMachine machine;
  Site site = machine.site();
  site.environment = {{"HOME", "/reader"}};
  EXPECT_THAT(check_hub_cache(site), ElementsAre(is(Severity::ok, "/reader/.cache/huggingface/hub is not there")));

  machine.write("data/hub/models--a--b/blobs/1234", "");
  machine.write("data/hub/version.txt", "1");
  site.environment["HF_HOME"] = "/data";
  EXPECT_THAT(check_hub_cache(site), ElementsAre(is(Severity::ok, "/data/hub has 1 model;")));

  machine.write("other/models--a--b/blobs/1234.incomplete", "");
  site.environment["HF_HUB_CACHE"] = "/other";
  EXPECT_THAT(check_hub_cache(site), ElementsAre(is(Severity::note, "1 of their files are not complete")));
}

TEST(DoctorPort, ATakenOneIsAProblem) {
  Site site;
  site.run.port = 0;
  EXPECT_THAT(check_port(site), ElementsAre(is(Severity::ok, "has a free port")));

  site.run.host = "192.0.2.1";  // of nobody, RFC 5737
  EXPECT_THAT(check_port(site),
              ElementsAre(AllOf(is(Severity::problem, "cannot listen"), advises("--host 127.0.0.1"))));
}

}  // namespace
}  // namespace kt
