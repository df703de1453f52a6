#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// A step of a parsed answer, in the order in which the model wrote: what a stream sends as one delta. Calls are
// counted 0, 1, 2, ...; the piece with a call's name comes once and before the pieces of its arguments, which in
// sequence are JSON text: exactly one object when the call was closed and the model wrote JSON.
struct OutputPiece {
  enum class Kind : uint8_t { kReasoning, kContent, kCallName, kArguments };
  Kind kind;
  std::string text;
  int call = -1;  // the call that a name or arguments belong to
};
using OutputPieces = std::vector<OutputPiece>;

// Appends text, to the last piece where that is of the same kind and call. Empty text adds nothing.
inline void add_piece(OutputPieces& pieces, OutputPiece::Kind kind, std::string_view text, int call = -1) {
  if (text.empty()) return;
  if (!pieces.empty() && pieces.back().kind == kind && pieces.back().call == call)
    pieces.back().text += text;
  else
    pieces.push_back({kind, std::string(text), call});
}

}  // namespace kt
