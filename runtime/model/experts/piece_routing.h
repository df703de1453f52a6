#pragma once

#include "kernels/device.h"
#include "runtime/weights/shares.h"

namespace kt {

// A layer's routing for a replicated bank: experts lie there in pieces (weights/shares.h), of which a sliced step
// computes one of all experts and another step all of some experts. Sums are the same bits (kernels/numeric.h).

struct PieceMemory {
  int32_t* ids = nullptr;
  float* weights = nullptr;
};
// Nothing for experts in one piece.
PieceMemory lay_out_pieces(Layout& layout, const ModelConfig& config, const ExpertShare& bank, int rows);
size_t piece_bytes(const ModelConfig& config, const ExpertShare& bank, int rows);

// A step's pieces of one width: kernels compute experts of one shape at a time.
class PieceWidths {
 public:
  PieceWidths(const ExpertShare& bank, bool sliced)
      : bank_(bank), first_(sliced ? bank.group : 0), last_(sliced ? bank.group + 1 : bank.parts()) {}

  // Of (row, expert) pairs those of the next width, as (row, piece) pairs, which are ExpertBank::layer's experts. They
  // are in `memory`; of experts in one piece they are `routing` itself. False: there are no more.
  bool next(const Routing& routing, const PieceMemory& memory, Routing& pieces);

 private:
  const ExpertShare& bank_;
  int first_, last_;  // pieces of a step
  int width_ = 0;     // that has been
};

}  // namespace kt
