#include "runtime/placement/strategies.h"

namespace kt {

HotSets place_in_front(const PlacementRequest& request) { return take_first(request, all_experts(request)); }

}  // namespace kt
