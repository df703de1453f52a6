#include "runtime/arch/cut_model.h"

#include "runtime/base/error.h"

namespace kt {

void cut_model(ModelConfig& model, int layers, int experts) {
  if (const int all = static_cast<int>(model.layers.size()); layers > all)
    fail(kExitUsage, "layers {}: the model has {}", layers, all);
  if (layers) model.layers.erase(model.layers.begin() + 1, model.layers.end() - (layers - 1));
  if (!experts) return;
  const SigmoidSpec groups = model.moe.sigmoid.value_or(SigmoidSpec{});
  if (experts % groups.groups != 0 || experts / groups.groups * groups.kept_groups < model.moe.top_k)
    fail(kExitUsage, "experts {}: expected a multiple of {}, at least {} of them in {} of {} groups", experts,
         groups.groups, model.moe.top_k, groups.kept_groups, groups.groups);
  model.moe.experts = experts;
}

}  // namespace kt
