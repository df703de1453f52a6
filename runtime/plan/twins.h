#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/plan/predict.h"

namespace kt {

// How the routed experts of a model are used, [1] or by layer; of a cut model too.
using Use = std::function<std::vector<Chances>(const ModelConfig& model)>;

// Which twin of those that one description of model, options and hardware allows.
struct Variant {
  int nodes = 1;
  std::optional<int> world;     // as of plan_deployment()
  std::string layout;           // "": as the options say
  int layers = 0, experts = 0;  // of a cut model (cut_model.h); 0: all
  std::vector<int> node_of;     // as of plan_deployment()

  auto operator<=>(const Variant&) const = default;
};

// They are made as they are asked for, and stay where they are.
class Twins {
 public:
  // `format`: of the banks.
  Twins(RunConfig run, const LoadedConfig& model, Format format, Hardware hardware, Use use)
      : run_(std::move(run)), model_(model), format_(format), hardware_(std::move(hardware)), use_(std::move(use)) {}

  const Twin& of(const Variant& variant);  // throws Error(kExitUsage) for what cannot be planned
  const Cluster& cluster_of(const Variant& variant);
  const Hardware& hardware() const { return hardware_; }

 private:
  struct Made {
    LoadedConfig model;
    std::optional<Cluster> cluster = {};
    std::optional<Twin> twin = {};
  };
  Made& made(const Variant& variant);

  RunConfig run_;
  const LoadedConfig& model_;
  Format format_;
  Hardware hardware_;
  Use use_;
  std::map<Variant, Made> made_;
};

}  // namespace kt
