#include "runtime/rank/regroup.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "runtime/base/log.h"
#include "runtime/comm/transports.h"
#include "runtime/plan/losses.h"

namespace kt {
namespace {

bool goes_on(const JobRank& job) { return job.run.on_lost_expert_rank == "go-on"; }

bool contains(std::span<const int> ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

Holders holders(const JobRank& job) { return {job.model(), job.topology, job.hot, job.copies}; }

std::vector<int> team_of(const JobRank& job, int rank) {
  for (const Team& team : job.doors.teams)
    if (contains(team.ranks, rank)) return team.ranks;
  return {};
}

// On the lifeline's thread.
std::vector<int> leave_with(JobRank& job, int rank) {
  const std::lock_guard lock(job.losses.mutex);
  const std::vector<int> leaving = team_of(job, rank);
  const std::string who = job.lifeline->name(rank);
  if (contains(leaving, job.rank())) {
    log("{} was lost, which held parts of the experts that this rank holds parts of: leaving", who);
    std::_Exit(kExitOk);
  }
  std::vector<int> gone = job.losses.ranks;
  gone.insert(gone.end(), leaving.begin(), leaving.end());
  if (job.rank() == 0) {
    if (leaving.empty()) return {};
    if (job.losses.is_news()) {
      log_error("{} was lost while the others leave out {}", who, job.lifeline->name(job.losses.ranks.back()));
      return {};
    }
    if (const auto expert = lost_with(holders(job), gone)) {
      log_error("{} was lost, and with it the last copy of expert {} of layer {}", who, expert->expert, expert->layer);
      return {};
    }
    log_warning("{} was lost; others hold its experts: going on without {}", who,
                leaving.size() > 1 ? fmt::format("ranks {}", fmt::join(leaving, ", ")) : "it");
  }
  job.losses.ranks = std::move(gone);
  job.losses.news.notify_all();
  job.transport.interrupt();
  return leaving;
}

void remake_doors(JobRank& job, std::span<const int> lost) {
  job.transport.leave_out(lost);
  std::erase_if(job.doors.teams, [&](const Team& team) { return contains(lost, team.ranks.front()); });
  clear_mailbox(job.doors.mailbox, job.rank(), job.doors.teams, job.doors.shape,
                static_cast<int>(job.topology.trunk.size()));
  if (job.group) job.group->start_again();
  if (job.trunk && job.dispatch) {
    job.dispatch = std::make_unique<TrunkDispatch>(job.transport, job.topology, job.doors.teams, job.doors.shape,
                                                   job.doors.mailbox);
    go_on_without(*job.trunk, *job.dispatch, groups_of(job.topology, lost));
  }
  job.transport.barrier();  // nobody looks at memory that another one has still to clear
}

}  // namespace

void check_losses(const JobRank& job) {
  if (const std::string why = why_losses_end_all(); goes_on(job) && !why.empty())
    fail(kExitUsage, "on-lost-expert-rank go-on: {}", why);
  check_losses(job.run, holders(job), job.doors.teams);
}

void watch_losses(JobRank& job) {
  if (goes_on(job)) job.lifeline->set_go_on([&job](int rank) { return leave_with(job, rank); });
}

std::vector<int> lost_ranks(JobRank& job) {
  const std::lock_guard lock(job.losses.mutex);
  return job.losses.ranks;
}

bool regroup(JobRank& job) {
  if (!goes_on(job)) {
    job.leave_to_lifeline();
    return false;
  }
  const auto start = std::chrono::steady_clock::now();
  constexpr std::chrono::duration<double> kNews(2);
  std::vector<int> lost;
  {
    std::unique_lock lock(job.losses.mutex);
    const auto patience = kNews + std::chrono::duration<double>(job.run.peer_timeout_s);
    if (!job.losses.news.wait_for(lock, patience, [&] { return job.losses.is_news(); })) return false;
    lost.assign(job.losses.ranks.begin() + static_cast<std::ptrdiff_t>(job.losses.left_out), job.losses.ranks.end());
  }
  try {
    remake_doors(job, lost);
  } catch (const Error& e) {
    log_error("{}", e.what());
    return false;
  }
  const std::lock_guard lock(job.losses.mutex);
  job.losses.left_out = job.losses.ranks.size();
  if (job.rank() == 0)
    log("{} ranks go on, {:.2f} s later", present(job.transport).size(),
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return true;
}

}  // namespace kt
