#include "runtime/serve/chat/answer_reader.h"

#include <algorithm>
#include <iterator>

#include "runtime/serve/service.h"

namespace kt {

AnswerReader::AnswerReader(const Chat& chat)
    : parser_(chat.output), format_(chat.call_ids), calls_before_(chat.calls) {}

OutputPieces AnswerReader::read(const Emission& emission) {
  OutputPieces pieces = parser_.push(emission.text);
  completion_tokens = emission.completion_tokens;
  finish = emission.finish;
  if (finish) {
    OutputPieces rest = parser_.flush();
    std::move(rest.begin(), rest.end(), std::back_inserter(pieces));
  }
  keep(pieces);
  broken_off_ = finish && parser_.cut_off() && !calls.empty() && !Json::accept(calls.back().arguments);
  return pieces;
}

void AnswerReader::keep(const OutputPieces& pieces) {
  for (const OutputPiece& piece : pieces) {
    switch (piece.kind) {
      case OutputPiece::Kind::kReasoning:
        reasoning += piece.text;
        reasoning_tokens = completion_tokens;
        break;
      case OutputPiece::Kind::kContent: content += piece.text; break;
      case OutputPiece::Kind::kCallName:
        calls.push_back({tool_call_id(*format_, piece.text, calls_before_ + piece.call, random_id()), piece.text, ""});
        break;
      case OutputPiece::Kind::kArguments: calls[static_cast<size_t>(piece.call)].arguments += piece.text; break;
    }
  }
}

}  // namespace kt
