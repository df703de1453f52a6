#pragma once

#include <vector>

#include "kernels/thread_pool.h"
#include "runtime/comm/mailbox.h"

namespace kt {

// Rows of a layer out to expert ranks and their sums back, by orders that all trunk ranks give at the same point.
//
// Every team of expert ranks has an inbox, and each of its ranks a place for sums, in memory that its machine shares:
// the mailbox. Trunk ranks of that machine write rows there and add the sums where they lie; nothing else moves. For
// trunk ranks of other machines the team's first rank receives into the inbox what they send, adds the sums of its team
// where they lie, and sends each trunk rank those of its rows. So rows and sums cross the network once per machine.

// Memory that shared memory and buffers take; what is meant for other machines not counted where there are none.
size_t expert_mail_bytes(const DispatchShape& shape, bool first_of_team, int trunk_ranks, bool other_machines);
size_t trunk_mail_bytes(const DispatchShape& shape, int trunk_ranks, int teams_elsewhere);

// What left this rank.
struct Given {
  size_t bytes = 0;
  Fault fault = {};
};

// A trunk rank's side.
class TrunkDispatch {
 public:
  TrunkDispatch(Transport& transport, const Topology& topology, std::vector<Team> teams, const DispatchShape& shape,
                NodeMemory memory);
  ~TrunkDispatch();  // waits until what it has sent has left
  TrunkDispatch(const TrunkDispatch&) = delete;
  TrunkDispatch& operator=(const TrunkDispatch&) = delete;

  std::span<const Team> teams() const { return teams_; }
  const DispatchShape& shape() const { return shape_; }

  // Where the next order's `count` rows, from `first` of all, are to be written for a team: ids and weights [count,
  // top_k], rows (count, row_stride). `listed` has room for an id of every expert. Waits for the place to be free.
  struct Outbox {
    int32_t *ids = nullptr, *late = nullptr, *listed = nullptr;
    float* weights = nullptr;
    bf16* rows = nullptr;
    Fault fault = {};
  };
  Outbox outbox(size_t team, int first);
  // Gives the order, whose content is in the outbox if it has any. All sums that were due have been taken.
  Given give(size_t team, const Order& order);
  // Moves on what is on its way to and from other machines. Cheap; to be called now and then while computing.
  void progress();

  // Sums that are due: one for every rank of a team on this machine, one for every team elsewhere; of the orders given
  // last, and late ones of those before.
  struct Sums {
    size_t team = 0;
    bool late = false;
    WireSums at;
    Fault fault = {};
  };
  // Waits for those that come next, in whatever order. False: no more are due.
  bool next(Sums& sums);

 private:
  struct Way {                       // to a team
    std::vector<Mailbox> mailboxes;  // of its ranks, if they are of this machine
    uint64_t number = 0;             // of the last order
    // To teams elsewhere, for this rank's rows:
    std::vector<std::byte> content, sums, late_sums[2];
    Order order = {};
    std::vector<Ticket> sends;
    bool here() const { return !mailboxes.empty(); }
  };
  struct Due {
    size_t team = 0;
    Mailbox from = {};
    bool late = false;
    uint64_t number = 0;
    int first = 0;
    Ticket ticket = -1;
    Transfer transfer = {};
  };
  Fault make_room(size_t team);
  size_t send_content(Way& way, int rank);
  void expect(size_t team, const Order& order, bool late);
  bool arrived(Due& due);
  Sums view(const Due& due) const;

  Transport& transport_;
  std::vector<Team> teams_;
  DispatchShape shape_;
  NodeMemory memory_;
  int index_, trunks_;  // this rank among the trunk ranks
  std::vector<Way> ways_;
  std::vector<Due> due_;
};

// An expert rank's side.
class ExpertDispatch {
 public:
  ExpertDispatch(Transport& transport, const Topology& topology, std::span<const Team> teams,
                 const DispatchShape& shape, NodeMemory memory);
  ~ExpertDispatch();  // waits until what it has sent has left
  ExpertDispatch(const ExpertDispatch&) = delete;
  ExpertDispatch& operator=(const ExpertDispatch&) = delete;

  // The next order of all trunk ranks, its rows as one batch; the views hold until next() is called again.
  struct Asked {
    Order order;
    std::span<const int32_t> ids, late, listed;
    std::span<const float> weights;
    const bf16* rows = nullptr;
    Fault fault = {};
  };
  Asked next();

  // Where the sums of the order's rows go: (rows, sum_stride), this rank's until it gives them. Waits for the place to
  // be free.
  double* sums(bool late);
  // The sums are there.
  Given give(bool late, ThreadPool& pool);

 private:
  struct Far {  // a trunk rank of another machine, as a team's first rank sees it
    int index = 0, rank = 0;
    Order order = {};
    Ticket ordered = -1;                 // its next order, if it is on its way
    std::vector<Ticket> receiving = {};  // the order's content
  };
  bool speaks() const { return me_ == 0; }
  Mailbox& own() { return mailboxes_[me_]; }
  void receive_orders();
  Fault receive_content(Far& far);
  bool pass_on(Far& far);
  void finish(std::vector<Ticket>& sends);
  size_t send_far(bool late, ThreadPool& pool);

  Transport& transport_;
  DispatchShape shape_;
  NodeMemory memory_;
  std::vector<int> trunk_, team_, readers_;  // ranks: all trunk ranks, the team, who reads this rank's sums here
  size_t me_ = 0;                            // of the team
  std::vector<Mailbox> mailboxes_;           // of the team
  std::vector<Far> far_;
  uint64_t number_ = 0;  // of the order in work
  int32_t rows_ = 0;
  Fault far_fault_;
  std::vector<std::byte> wire_[2];  // sums as they are sent, late ones apart
  std::vector<Ticket> sends_[2];    // likewise
};

}  // namespace kt
