#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine/request.h"

namespace kt {

struct PromptLogprob {
  int32_t id = 0;
  const TokenLogprob* known = nullptr;  // null for the first token of a prompt: nothing comes before it
};

// Prompt tokens from position `start` on with their logprobs. `known` are those of the last known.size() positions.
inline std::vector<PromptLogprob> align_prompt(std::span<const int32_t> ids, std::span<const TokenLogprob> known,
                                               size_t start) {
  std::vector<PromptLogprob> aligned;
  const size_t first_known = ids.size() - std::min(ids.size(), known.size());
  for (size_t i = start; i < ids.size(); ++i)
    aligned.push_back({ids[i], i > 0 && i >= first_known ? &known[i - first_known] : nullptr});
  return aligned;
}

}  // namespace kt
