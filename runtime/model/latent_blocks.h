#pragma once

#include <vector>

#include "runtime/arch/config.h"
#include "runtime/step/step.h"

namespace kt {

// Only whole blocks of a prompt, of so many tokens from its beginning on, are computed in expanded form.
inline constexpr int kMlaPromptBlock = 256;

// Rows of a step that latent attention takes together: of one form, and when expanded of one sequence.
struct LatentBlock {
  int first = 0, count = 0;
  bool expanded = false;
  bool sparse = false;  // some see more keys than the indexer keeps
};
// All rows of a plan, in order.
void cut_latent_blocks(const MlaSpec& mla, const StepPlan& plan, std::vector<LatentBlock>& blocks);

}  // namespace kt
