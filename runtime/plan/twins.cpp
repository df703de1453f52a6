#include "runtime/plan/twins.h"

#include "runtime/arch/cut_model.h"

namespace kt {

Twins::Made& Twins::made(const Variant& v) {
  if (const auto found = made_.find(v); found != made_.end()) return found->second;
  LoadedConfig cut = model_;
  const int layers = static_cast<int>(cut.config.layers.size());
  cut_model(cut.config, v.layers == layers ? 0 : v.layers, v.experts == cut.config.moe.experts ? 0 : v.experts);
  Made& made = made_.emplace(v, Made{std::move(cut)}).first->second;
  Hardware hardware = hardware_;
  hardware.nodes = v.nodes;
  RunConfig run = run_;
  if (!v.layout.empty()) run.expert_layout = v.layout;
  made.cluster.emplace(plan_deployment(run, made.model, format_, hardware, v.world, v.node_of));
  made.twin.emplace(make_twin(*made.cluster, hardware, use_(made.model.config)));
  return made;
}

const Twin& Twins::of(const Variant& variant) { return *made(variant).twin; }
const Cluster& Twins::cluster_of(const Variant& variant) { return *made(variant).cluster; }

}  // namespace kt
