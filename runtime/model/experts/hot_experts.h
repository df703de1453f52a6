#pragma once

#include <span>
#include <vector>

#include "runtime/model/experts/bank.h"

namespace kt {

// The hot experts of a trunk rank, on the columns that the rank computes of each: copies of the bank's, so that being
// hot decides who computes and no bit of the result; or the checkpoint's own where the bank was converted. All slots
// are of one size and taken at start; an expert takes whichever is free.
class HotExperts {
 public:
  // `columns`: of this rank; `slots`: experts of all layers together that it has room for, also for those to come;
  // `staged`: how many may be on their way at a time to a device whose memory the host does not write, 0 where it does.
  HotExperts(const ModelConfig& config, Format format, Range columns, int64_t slots, Device& device,
             int64_t staged = 0);
  static size_t bytes(const ModelConfig& config, Format format, int columns, int64_t slots);

  bool holds(int layer, int expert) const { return slot_of_[index(layer, expert)] >= 0; }
  // All experts of a layer; those that are not hot are empty.
  const FfnWeights* layer(int layer) const { return &experts_[index(layer, 0)]; }

  // A slot to be filled, whose expert then becomes hot. Throws Error(kExitPeerLost) when none is free.
  int64_t claim();
  // Where any thread may put its bytes, and that they are there: before the device computes with them.
  ExpertBytes place(int64_t slot);
  void arrive(int64_t slot);
  void hold(int layer, int expert, int64_t slot);
  void give_up(int layer, int expert);
  // A place for an expert that is hot at once, and that it is filled.
  ExpertBytes take(int layer, int expert);
  void arrive(int layer, int expert) { arrive(slot_of_[index(layer, expert)]); }

  const PackedShape& shape() const { return shape_; }
  Format format() const { return shape_.down.format; }
  Range columns() const { return columns_; }
  int64_t slots() const { return slots_; }

 private:
  size_t index(int layer, int expert) const {
    return static_cast<size_t>(moe_index_[layer]) * per_layer_ + static_cast<size_t>(expert);
  }

  ExpertBytes bytes_at(std::byte* memory, int64_t i) const;

  Device& device_;
  PackedShape shape_;
  Range columns_;
  int64_t slots_;
  int per_layer_;
  std::vector<int> moe_index_;
  std::vector<FfnWeights> experts_;  // [moe layer * experts + expert]
  std::vector<int64_t> slot_of_;     // likewise, -1: cold
  std::vector<int64_t> free_;
  std::vector<int64_t> staged_;  // slots whose bytes lie in staging_, -1: free
  Buffer storage_, staging_;
};

}  // namespace kt
