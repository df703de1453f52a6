#pragma once

#include <future>
#include <map>
#include <span>
#include <vector>

#include "runtime/comm/transport.h"
#include "runtime/model/experts/expert_fetch.h"
#include "runtime/step/orders.h"

namespace kt {

// Exchanges hot experts of a trunk rank without holding up its steps. The newcomers come to spare slots, on a thread
// and a lane of their own, while steps go on with the experts that are hot; then, between two steps, they take over: on
// all trunk ranks the same ones between the same two. Trunk ranks get the same orders, so their threads fetch the same.
class ExpertMover {
 public:
  // All must outlive it; the lane and the dispatch on it (null: all experts are with trunk ranks) are this object's
  // alone.
  ExpertMover(Trunk& trunk, Transport& lane, TrunkDispatch* dispatch) : t_(trunk), lane_(lane), dispatch_(dispatch) {}
  // Waits for what is on its way and tells the expert ranks' lanes to leave.
  ~ExpertMover();

  // The following are called between steps, by the thread that runs them.

  // Starts bringing those that come `in`. What was brought before has taken over.
  void bring(std::span<const ExpertMove> moves);
  // On the first trunk rank: all trunk ranks have what was brought. Elsewhere: this one has.
  bool arrived() const;
  // Waits until this rank has it; those that go `out` are given up, the others are hot. Returns the bytes that came.
  int64_t take_over();

 private:
  struct Newcomer {
    int32_t expert;
    int64_t slot;
    ExpertBytes to;
  };
  void fetch();

  Trunk& t_;
  Transport& lane_;
  TrunkDispatch* dispatch_;
  FetchRoom room_;
  std::vector<ExpertMove> moves_;
  std::map<int, std::vector<Newcomer>> newcomers_;  // by layer; experts ascending
  std::future<void> fetched_;
};

// Between steps: what the orders say of hot experts, on all trunk ranks alike.
void move_experts(Trunk& t, const StepOrders& orders);

}  // namespace kt
