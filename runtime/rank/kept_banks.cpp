#include "runtime/rank/kept_banks.h"

#include <fmt/ranges.h>
#include <sys/statvfs.h>

#include "runtime/base/build_id.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/checksum.h"

namespace kt {
namespace {

// Of all that decides a bank's bytes: a bench may have cut the model, a load-format may have made its weights up.
std::string key_of(const JobRank& job) {
  const ModelConfig& model = job.model();
  const ExpertShare& share = job.expert_share;
  std::string pieces;
  for (const Range piece : share.pieces) pieces += fmt::format("{} to {}, ", piece.begin, piece.end);
  Checksum sum;
  sum.update(fmt::format("{} {} {}, {} layers of {}, {} experts of {}, {}{} of {}, {}", build_id(), job.model_checksum,
                         job.run.load_format, model.layers.size(), model.hidden, model.moe.experts, model.moe.inter,
                         pieces, share.group, share.groups, share.copies));
  return fmt::format("{:016x}", sum.value());
}

size_t free_bytes(const std::string& folder) {
  struct statvfs system {};
  return statvfs(folder.c_str(), &system) == 0 ? system.f_bavail * system.f_frsize : 0;
}

}  // namespace

void find_kept_bank(JobRank& job) {
  if (job.run.keep_bank.empty() || !job.expert_share.count(job.model().moe.experts)) return;
  const size_t bytes = bank_bytes(job.model(), job.experts->source.format, job.expert_share);
  const KeptBank& bank = job.kept_bank.emplace(job.run.keep_bank, key_of(job), bytes);
  log("bank {}: {}", bank.path().string(),
      bank.filled() ? "found" : "not there yet; after a fault it stays until a start finds or somebody removes it");
}

void count_kept_banks(JobRank& job) {
  if (job.run.keep_bank.empty()) return;
  const auto of_machine = [&](size_t mine) {
    const std::vector<std::string> all = all_gather(job.transport, std::to_string(mine));
    size_t sum = 0;
    for (size_t r = 0; r < all.size(); ++r)
      if (job.topology.node_of[r] == job.topology.node_of[static_cast<size_t>(job.rank())]) sum += std::stoull(all[r]);
    return sum;
  };
  job.kept_bytes = of_machine(job.kept_bank ? job.kept_bank->taken() : 0);
  job.kept_bytes_to_come = of_machine(job.kept_bank ? job.kept_bank->missing() : 0);
}

void check_bank_folder(const JobRank& job) {
  const std::string& folder = job.run.keep_bank;
  if (folder.empty()) return;
  if (const size_t free = free_bytes(folder); job.kept_bytes_to_come > free)
    fail(
        kExitUsage,
        "keep-bank: {} has room for {:.1f} GB, the experts of this machine's ranks need {:.1f} GB\n  remove banks that "
        "no job has, ktmpi doctor names them; or mount -o remount,size=100% {}",
        folder, static_cast<double>(free) / 1e9, static_cast<double>(job.kept_bytes_to_come) / 1e9, folder);
}

}  // namespace kt
