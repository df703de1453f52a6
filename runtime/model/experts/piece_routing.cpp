#include "runtime/model/experts/piece_routing.h"

#include <algorithm>

namespace kt {

PieceMemory lay_out_pieces(Layout& layout, const ModelConfig& config, const ExpertShare& bank, int rows) {
  if (bank.parts() == 1) return {};
  const int64_t pairs = static_cast<int64_t>(rows) * config.moe.top_k * bank.parts();
  return {.ids = layout.array<int32_t>(pairs), .weights = layout.array<float>(pairs)};
}

size_t piece_bytes(const ModelConfig& config, const ExpertShare& bank, int rows) {
  Layout layout;
  lay_out_pieces(layout, config, bank, rows);
  return layout.bytes() ? Buffer::footprint(layout.bytes()) : 0;
}

bool PieceWidths::next(const Routing& routing, const PieceMemory& memory, Routing& pieces) {
  const auto width = [&](int p) { return bank_.pieces[static_cast<size_t>(p)].size(); };
  int least = 0;
  for (int p = first_; p < last_; ++p)
    if (width(p) > width_ && (least == 0 || width(p) < least)) least = width(p);
  if (least == 0) return false;
  width_ = least;
  pieces = routing;
  if (bank_.parts() == 1) return true;
  size_t n = 0;
  for (size_t i = 0; i < routing.ids.size(); ++i)
    for (int p = first_; p < last_; ++p) {
      if (width(p) != width_) continue;
      memory.ids[n] = routing.ids[i] < 0 ? -1 : routing.ids[i] * bank_.parts() + p;
      memory.weights[n++] = routing.weights[i];
    }
  pieces.ids = {memory.ids, n};
  pieces.weights = {memory.weights, n};
  pieces.top_k = routing.ids.empty() ? 0 : static_cast<int>(n / (routing.ids.size() / routing.top_k));
  return true;
}

}  // namespace kt
