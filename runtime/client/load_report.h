#pragma once

#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "runtime/client/load.h"

namespace kt {

// The figures of a load under the names of `vllm bench serve`: counts, throughputs (of complete requests), and
// mean_, median_, std_ and p99_ of ttft (time to first token), tpot (time per output token after the first), itl
// (between pieces of text) and e2el (to the last token), in ms; null where nothing was measured.
nlohmann::ordered_json load_report(const LoadResult& result);

// Of the sorted values, interpolated as numpy.percentile does. `share` from 0 to 1; not for an empty list.
double percentile(const std::vector<double>& sorted, double share);

}  // namespace kt
