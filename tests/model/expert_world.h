#pragma once

// A trunk rank without experts of its own and two expert ranks that hold them, as threads of this process.

#include <thread>

#include "runtime/model/experts/ask.h"
#include "runtime/model/experts/doors.h"
#include "runtime/rank/expert_rank.h"
#include "tests/model/machine.h"

namespace kt {

inline ModelConfig routed_model() {
  ModelConfig c;
  c.hidden = 64;
  c.vocab = 80;
  c.max_context = 4096;
  c.layers.assign(2, {.mixer = Mixer::attention, .ffn = Ffn::moe});
  c.attention = {.heads = 2, .kv_heads = 2, .head_dim = 32};
  c.attention.rope = {.theta = 1e4, .dims = 32};
  c.moe = {.experts = 8, .top_k = 3, .inter = 96, .norm_topk = true};
  return c;
}

class ExpertWorld {
 public:
  ExpertWorld(const ModelConfig& model, const Arch& arch, const TestDevice& on)
      : config_(model), arch_(arch), on_(on), transports(make_local_transports(3)) {
    for (int rank : {1, 2}) {
      ranks_.emplace_back([this, rank] { live(*transports[rank], rank, doors_of(rank)); });
      lanes_.emplace_back(
          [this, rank] { live(*transports[rank]->lane(), rank, plan_side_doors(topology(rank), config_)); });
    }
    lane = transports[0]->lane();
    dispatch = enter(*transports[0], doors_of(0));
    side_dispatch = enter(*lane, plan_side_doors(topology(0), config_));
  }
  // After dismiss_lanes(), or the end of an ExpertMover, which does the same.
  ~ExpertWorld() {
    dismiss(*dispatch);
    for (std::thread& t : ranks_) t.join();
    for (std::thread& t : lanes_) t.join();
  }

  void dismiss_lanes() { dismiss(*side_dispatch); }
  Topology topology(int rank) const {
    return plan_topology({.tensor_parallel = 1, .experts_per_node = 2}, rank, transports[0]->nodes());
  }

 private:
  Doors doors_of(int rank) const { return plan_doors(topology(rank), config_, {.max_rows = 4096}); }
  std::unique_ptr<TrunkDispatch> enter(Transport& transport, Doors doors) const {
    open_doors(doors, transport, topology(0));
    return std::make_unique<TrunkDispatch>(transport, topology(0), doors.teams, doors.shape, doors.mailbox);
  }
  static void dismiss(TrunkDispatch& dispatch) {
    for (size_t team = 0; team < dispatch.teams().size(); ++team)
      dispatch.give(team, {.ask = static_cast<int32_t>(Ask::leave)});
  }
  void live(Transport& transport, int rank, Doors doors) const {
    ThreadPool pool(1);
    const Topology mine = topology(rank);
    open_doors(doors, transport, mine);
    const std::unique_ptr<Checkpoint> checkpoint = dummy_checkpoint({});
    const ExpertShare share =
        expert_shares(config_.moe.inter, mine.group_of, mine.replicated)[static_cast<size_t>(mine.expert_index())];
    const std::unique_ptr<Device> device = make_cpu_device(*on_.ops, pool, -1);
    const ExpertBank bank = load_experts({.checkpoint = checkpoint.get(), .arch = &arch_}, config_, share, *device);
    device->reserve(bank_shape(config_, share, bank.format, 4096));
    ExpertDispatch dispatch(transport, mine, doors.teams, doors.shape, doors.mailbox);
    StepClock clock(config_.layers.size());
    serve_experts(transport, mine, dispatch, doors.shape, clock, *device, config_, bank);
  }

  const ModelConfig& config_;
  const Arch& arch_;
  TestDevice on_;
  std::vector<std::thread> ranks_, lanes_;

 public:
  std::vector<std::unique_ptr<Transport>> transports;
  std::unique_ptr<Transport> lane;  // of the trunk rank, as what follows
  std::unique_ptr<TrunkDispatch> dispatch, side_dispatch;
};

}  // namespace kt
