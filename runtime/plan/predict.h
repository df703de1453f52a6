#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/plan/cost.h"
#include "runtime/plan/plan.h"

namespace kt {

// How long steps take, not at best as in limits.h but as ranks would really take: each with its own threads, waiting
// for the slowest one in every layer, and with what kernels and messages lose besides.

// What calibration.h finds from measured steps.
struct CostFactors {
  double memory = 1, compute = 1;  // of the described rates, what a rank gets
  double apart = 0;                // of the shorter of reading and multiplying, what does not go on beside the longer
  double layer_us = 0;             // of each layer, beside reading and multiplying
  double message_us = 0;           // of each order to a team and each sum back
};

// The work of one forward pass, ready to be timed: nothing of it depends on rates.
struct PassWork {
  Pass pass;
  bool layerwise = false;  // the trunk computes the experts
  Work trunk;              // of each trunk rank
  Work shared;             // of each trunk rank in all MoE layers: the shared expert and hot ones
  double layers = 0, moe_layers = 0;
  double reductions = 0, reduced_bytes = 0;  // sums over the trunk ranks, all of them
  struct Layer {                             // MoE layers that are alike
    double count = 0;
    BankWork banks;
    Messages messages;
    double imbalance = 1;
    Work cold;  // all cold experts together, for layerwise passes
  };
  std::vector<Layer> moe;
};

// A model on a cluster. The parts of the machine that ranks have follow from the same rules as in serving
// (comm/cores.h): ranks that share cores share what these read and multiply.
struct Twin {
  Hardware hardware;
  PassCost cost;
  Topology topology;
  HotSets hot;                      // by layer
  std::vector<Chances> chances;     // by layer; those that every layer has
  std::vector<double> part;         // of its machine's rates, by rank
  std::vector<ExpertShare> shares;  // by place among the expert ranks
  int chunk = 0;                    // rows of a step
  bool gpu = false;

  int host_of(int rank) const { return hardware.host_of(topology.node_of[static_cast<size_t>(rank)]); }
};
// `chances`: of every layer (recorded_chances), or one for all. Refers to `cluster`. Throws Error(kExitUsage) when the
// hardware's rates are not known.
Twin make_twin(const Cluster& cluster, const Hardware& hardware, const std::vector<Chances>& chances);

// A decode step of `batch` sequences with `context` tokens each; a prompt of each of `batch` sequences, all chunks.
std::vector<PassWork> decode_work(const Twin& twin, int context, int batch);
std::vector<PassWork> prefill_work(const Twin& twin, int prompt, int batch);

// Seconds, summed over passes.
struct StepTime {
  double trunk = 0;                      // attention, dense layers, router, head; sums over trunk ranks
  double shared = 0;                     // shared and hot experts, beside which the expert ranks work
  double experts = 0;                    // of the slowest rank in each layer; after `shared` if on the trunk's cores
  double dispatch = 0;                   // rows out and sums back: their bytes
  double messages = 0;                   // and what each message costs; latency of the network
  double overhead = 0;                   // of layers
  double total = 0;                      // shared and experts overlap
  double imbalance = 0;                  // of the experts: the fullest group over the mean, averaged over layers
  double expert_bytes = 0;               // that the host with most of them reads
  double out_bytes = 0, back_bytes = 0;  // of rows and of sums, of the whole job

  const char* bound() const;  // the part that takes longest
};
StepTime time_of(const std::vector<PassWork>& passes, const Twin& twin, const CostFactors& factors);

// Seconds until all of the ranks of one host are done: each alone would take `alone` with its `part` of the cores,
// and where these parts are more than there is, ranks wait for each other's cores.
double shared_seconds(const std::vector<double>& alone, const std::vector<double>& part);

}  // namespace kt
