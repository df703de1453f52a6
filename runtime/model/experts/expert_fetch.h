#pragma once

#include <functional>
#include <span>
#include <vector>

#include "runtime/comm/dispatch.h"
#include "runtime/model/experts/bank.h"

namespace kt {

struct Trunk;

// What fetches of one thread need, kept between them: pages that are new cost as much as the weights' way.
struct FetchRoom {
  std::vector<std::byte> inbox;
  std::vector<std::vector<std::byte>> outboxes;  // to each trunk rank, on ranks with a bank
  std::vector<Ticket> sends;                     // of those
};

// Weights of some experts of one layer on their way from the banks to this trunk rank's columns. Every trunk rank
// fetches the same experts at the same point of the same step; in ascending order, in batches that all ranks cut alike.
// Of each batch comes one message (Tag::weights) from every rank whose columns overlap: its pieces, expert after
// expert, each of expert_shape(overlap).
class ExpertFetch {
 public:
  // Asks for the experts, which must be ascending; they may be none. `transport` and `dispatch` (null: all experts are
  // with trunk ranks): the trunk's, or its lane's.
  ExpertFetch(const Trunk& trunk, Transport& transport, TrunkDispatch* dispatch, FetchRoom& room, int layer,
              std::vector<int32_t> experts);

  // Waits for the next batch and writes each expert where `place` says. Returns who came; nobody at the end. May be
  // called from any thread while no other makes use of the transport.
  std::span<const int32_t> next(const std::function<ExpertBytes(int32_t)>& place);

 private:
  void send_to_peers(std::span<const int32_t> batch);

  const Trunk& t_;
  Transport& transport_;
  FetchRoom& room_;
  int layer_;
  std::vector<int32_t> experts_;
  size_t done_ = 0;
};

// Experts of one batch: at most 64 MiB of them, all columns counted, and at least one.
int fetch_batch(const ModelConfig& config, Format format);

// What an expert rank answers to Ask::weights from trunk rank `trunk` of `trunks`: calls send(bytes) for each batch.
// `share` is the expert rank's own. The bytes must be sent when the call returns.
void stage_pieces(const ModelConfig& config, const ExpertBank& bank, int layer, std::span<const int32_t> batch,
                  Range trunk_columns, std::vector<std::byte>& out);

}  // namespace kt
