#include "runtime/supervise/restart.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr double kWindow = 3600;                 // seconds; so are all of these
constexpr double kShortest = 1, kLongest = 60;   // delays
constexpr double kWell = 60;                     // served so long, a job has worked, whatever became of it
constexpr int kLostNode = 205;                   // mpirun's
constexpr int kLostWay = 255;                    // its ssh's, whose machine is gone, or was never reached
constexpr int kSignals = 128, kMostSignal = 64;  // launchers and shells say 128 + n of signal n

// The program's own words for what another start does not change.
bool is_final(int code) { return code == kExitOk || code == kExitUsage || code == kExitModel || code == kExitPort; }

}  // namespace

bool may_work_again(const JobEnd& end) {
  const int code = end.code;
  const bool signal = code > kSignals && code <= kSignals + kMostSignal;
  return code == kExitPeerLost || code == kExitWatchdog || code == kExitTryAgain || code == kExitDevice ||
         code == kLostNode || (code == kLostWay && end.took_port) || signal;
}

Verdict judge(const JobEnd& end, double now_s, int most_restarts, RestartHistory& history) {
  if (!may_work_again(end)) {
    // As after the loss of a machine. Who looks after this process is to know of the loss: it may have other machines.
    const bool could_not_start = history.fault != 0 && !end.took_port && !is_final(end.code);
    if (!could_not_start) return {.code = end.code, .why = "another start would change nothing"};
    return {.code = history.fault, .why = fmt::format("its launcher could not start it after {}", history.fault)};
  }
  std::erase_if(history.times, [&](double time) { return time <= now_s - kWindow; });
  if (static_cast<int>(history.times.size()) >= most_restarts)
    return {.code = end.code, .why = fmt::format("{} restarts in an hour were enough", most_restarts)};
  if (end.served_s >= kWell) history.delay_s = 0;
  history.delay_s = history.delay_s > 0 ? std::min(2 * history.delay_s, kLongest) : kShortest;
  history.times.push_back(now_s);
  history.fault = end.code;
  return {.again = true, .delay_s = history.delay_s};
}

}  // namespace kt
