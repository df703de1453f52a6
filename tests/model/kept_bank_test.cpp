#include "runtime/model/experts/kept_bank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "runtime/arch/arch.h"
#include "runtime/base/error.h"
#include "runtime/checkpoint/dummy.h"
#include "runtime/model/experts/bank.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

// Of shared memory, gone with the test.
class Folder {
 public:
  Folder() { fs::create_directory(path_); }
  ~Folder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }
  size_t files() const { return static_cast<size_t>(std::distance(fs::directory_iterator(path_), {})); }

 private:
  fs::path path_ = fs::path("/dev/shm") / TempFolder().path().filename();
};

struct Model {
  ModelConfig config;
  Arch arch{.hf_name = "Test", .prefix = "model."};
  std::unique_ptr<Checkpoint> checkpoint = dummy_checkpoint({.seed = 5});
  ExpertSource source;

  explicit Model(Format format) {
    config.hidden = 128;
    config.layers = {{.ffn = Ffn::moe}, {.ffn = Ffn::dense}, {.ffn = Ffn::moe}};
    config.moe = {.experts = 5, .top_k = 3, .inter = 96};
    source = {.format = format, .checkpoint = checkpoint.get(), .arch = &arch};
    source.quant.stored = format == Format::FP8       ? Stored::fp8_block
                          : format == Format::RAWINT4 ? Stored::int4_group
                                                      : Stored::bf16;
  }
  size_t bytes(const ExpertShare& share) const { return bank_bytes(config, source.format, share); }
};

class KeptBankOf : public testing::TestWithParam<Format> {
 protected:
  Folder folder;
  ThreadPool pool{2};
  std::unique_ptr<Device> device = make_cpu_device(choose_ops(), pool, -1);
};
INSTANTIATE_TEST_SUITE_P(Formats, KeptBankOf,
                         testing::Values(Format::BF16, Format::FP8, Format::RAWINT4, Format::AMXINT4, Format::AMXINT8));

// The second start has no weights to read.
TEST_P(KeptBankOf, IsFoundAsItWasLoaded) {
  const Model model(GetParam());
  for (const ExpertShare& share : {ExpertShare(Range{32, 96}), ExpertShare(Range{0, 96}, 1, 2)}) {
    const size_t bytes = model.bytes(share);
    const ExpertBank plain = load_experts(model.source, model.config, share, *device);
    {
      KeptBank kept(folder.path(), "k", bytes);
      EXPECT_FALSE(kept.filled());
      EXPECT_EQ(kept.taken(), 0U);
      load_experts(model.source, model.config, share, *device, &kept);
    }
    KeptBank kept(folder.path(), "k", bytes);
    ASSERT_TRUE(kept.filled());
    EXPECT_EQ(kept.missing(), 0U);
    ExpertSource unread = model.source;
    const std::unique_ptr<Checkpoint> other = dummy_checkpoint({.seed = 6});
    unread.checkpoint = other.get();
    const ExpertBank bank = load_experts(unread, model.config, share, *device, &kept);
    ASSERT_EQ(bank.storage.size(), plain.storage.size());
    EXPECT_EQ(std::memcmp(bank.storage.bytes(), plain.storage.bytes(), bytes), 0);
    for (size_t e = 0; e < plain.experts.size(); ++e) {
      const FfnWeights &a = plain.experts[e], &b = bank.experts[e];
      EXPECT_EQ(a.columns, b.columns);
      for (const auto& [x, y] : {std::pair(a.gate_up, b.gate_up), std::pair(a.down, b.down)}) {
        EXPECT_EQ(x.data ? x.data - plain.storage.bytes() : -1, y.data ? y.data - bank.storage.bytes() : -1);
        EXPECT_THAT(std::tuple(x.format, x.n, x.k, x.group_tiles), std::tuple(y.format, y.n, y.k, y.group_tiles));
      }
    }
    kept.remove();
    EXPECT_EQ(folder.files(), 0U);
  }
}

int exit_code_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.exit_code();
  }
  return 0;
}

TEST(KeptBank, ThatWasNotFilledIsGone) {
  const Folder folder;
  ThreadPool pool(1);
  {
    const KeptBank kept(folder.path(), "k", 100);
    kept.memory(-1, pool).bytes()[0] = std::byte{1};
  }
  EXPECT_EQ(folder.files(), 0U);
  EXPECT_EQ(KeptBank(folder.path(), "k", 100).memory(-1, pool).bytes()[0], std::byte{0});
}

TEST(KeptBank, IsWaitedForWhileARankHasIt) {
  const Folder folder;
  ThreadPool pool(1);
  auto first = std::make_unique<KeptBank>(folder.path(), "k", 100);
  first->publish(first->memory(-1, pool));
  EXPECT_EQ(exit_code_of([&] { KeptBank(folder.path(), "k", 100, std::chrono::milliseconds(100)); }), kExitTryAgain);
  std::jthread leaves([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    first.reset();
  });
  EXPECT_TRUE(KeptBank(folder.path(), "k", 100).filled());
}

TEST(KeptBank, RefusesOtherFilesAndFolders) {
  const Folder folder;
  EXPECT_EQ(exit_code_of([&] { KeptBank("/absent", "k", 100); }), kExitUsage);
  EXPECT_EQ(exit_code_of([&] { KeptBank("/proc", "k", 100); }), kExitUsage);
  const fs::path file = folder.path() / "ktmpi-bank-k";
  for (const auto& [size, mode] : {std::pair(1 << 20, 0600), std::pair(2 << 20, 0644)}) {
    std::ofstream(file).put('x');
    fs::resize_file(file, static_cast<uintmax_t>(size));
    fs::permissions(file, static_cast<fs::perms>(mode));
    EXPECT_EQ(exit_code_of([&] { KeptBank(folder.path(), "k", 100); }), kExitUsage) << size << " " << mode;
  }
  fs::permissions(file, static_cast<fs::perms>(0600));
  EXPECT_TRUE(KeptBank(folder.path(), "k", 100).filled());
  fs::rename(file, folder.path() / "other");
  fs::create_symlink(folder.path() / "other", file);
  EXPECT_EQ(exit_code_of([&] { KeptBank(folder.path(), "k", 100); }), kExitUsage);
}

}  // namespace
}  // namespace kt
