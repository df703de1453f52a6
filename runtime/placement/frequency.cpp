#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/placement/strategies.h"

namespace kt {

// One ranking over all layers: every token makes the same number of choices in each, so their counts compare.
HotSets place_by_frequency(const PlacementRequest& request) {
  if (!request.counts)
    fail(kExitUsage,
         "kt-expert-placement-strategy frequency needs counts of how often each expert is used\n"
         "  record them: start a server with expert-distribution-recorder-mode: stat, POST "
         "/start_expert_distribution_record, ask what you will ask, POST /dump_expert_distribution_record\n"
         "  then give that file as init-expert-location, or choose a strategy without counts, such as uniform");
  const ExpertCounts& counts = *request.counts;
  std::vector<ExpertAt> order = all_experts(request);
  const auto count = [&](ExpertAt e) { return counts.of_layer(e.layer)[static_cast<size_t>(e.expert)]; };
  if (std::all_of(order.begin(), order.end(), [&](ExpertAt e) { return count(e) == 0; }))
    fail(kExitUsage,
         "kt-expert-placement-strategy frequency: the counts are all zero\n"
         "  record again, with requests between start and dump");
  std::stable_sort(order.begin(), order.end(), [&](ExpertAt a, ExpertAt b) { return count(a) > count(b); });
  return take_first(request, order);
}

}  // namespace kt
