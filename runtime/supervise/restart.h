#pragma once

#include <string>
#include <vector>

namespace kt {

// How a job ended, as seen by who started it.
struct JobEnd {
  int code = 0;            // exit code of its launcher; 128 + n after signal n
  bool took_port = false;  // its rank 0 was there: the launcher had been able to start it
  double served_s = 0;     // from ready to the end; 0: it was never ready
};

// What the next decision needs of those before.
struct RestartHistory {
  std::vector<double> times;  // of restarts in the last hour, seconds of any clock
  double delay_s = 0;         // before the last one; 0: none, or the job has served well since
  int fault = 0;              // exit code that led to the last one
};

struct Verdict {
  bool again = false;
  double delay_s = 0;  // before the next start
  int code = 0;        // to leave with if there is none
  std::string why;     // that there is none
};

// Whether the same start may work after this end: a rank was lost, killed or hung, a resource was short.
bool may_work_again(const JobEnd& end);

// Each restart in a row waits twice as long as the one before, from one second to a minute; at most `most_restarts` in
// an hour.
Verdict judge(const JobEnd& end, double now_s, int most_restarts, RestartHistory& history);

}  // namespace kt
