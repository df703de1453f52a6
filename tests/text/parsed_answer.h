#pragma once

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/answers/output_parser.h"

namespace kt {

// What a client has after joining the pieces of an answer.
struct ParsedAnswer {
  struct Call {
    std::string name, arguments;
    bool operator==(const Call&) const = default;
  };
  std::string reasoning, content;
  std::vector<Call> calls;
  bool cut_off = false;
  size_t pieces = 0;

  bool operator==(const ParsedAnswer& other) const {
    return reasoning == other.reasoning && content == other.content && calls == other.calls && cut_off == other.cut_off;
  }
};

inline void PrintTo(const ParsedAnswer& answer, std::ostream* out) {
  *out << "reasoning [" << answer.reasoning << "] content [" << answer.content << "]";
  for (const ParsedAnswer::Call& call : answer.calls) *out << " call " << call.name << " [" << call.arguments << "]";
  if (answer.cut_off) *out << " cut off";
}

using Chunks = std::vector<std::string_view>;

// Joins the pieces and holds them to the rules of a stream.
inline ParsedAnswer parse(const OutputParserOptions& options, const Chunks& chunks) {
  using Kind = OutputPiece::Kind;
  OutputParser parser(options);
  ParsedAnswer answer;
  const auto take = [&](const OutputPieces& pieces) {
    for (const OutputPiece& piece : pieces) {
      ++answer.pieces;
      EXPECT_FALSE(piece.text.empty() && piece.kind != Kind::kCallName) << "an empty piece";
      switch (piece.kind) {
        case Kind::kReasoning: answer.reasoning += piece.text; break;
        case Kind::kContent: answer.content += piece.text; break;
        case Kind::kCallName:
          EXPECT_EQ(piece.call, static_cast<int>(answer.calls.size())) << "calls are numbered in sequence";
          answer.calls.push_back({piece.text, ""});
          break;
        case Kind::kArguments:
          EXPECT_EQ(piece.call, static_cast<int>(answer.calls.size()) - 1) << "arguments belong to the latest call";
          if (!answer.calls.empty()) answer.calls.back().arguments += piece.text;
      }
    }
  };
  for (const std::string_view chunk : chunks) take(parser.push(chunk));
  take(parser.flush());
  answer.cut_off = parser.cut_off();
  return answer;
}

inline Chunks single_bytes(std::string_view text) {
  Chunks chunks;
  for (size_t i = 0; i < text.size(); ++i) chunks.push_back(text.substr(i, 1));
  return chunks;
}

inline Chunks random_cuts(std::string_view text, size_t longest, unsigned seed) {
  std::mt19937 random(seed);
  Chunks chunks;
  while (!text.empty()) {
    chunks.push_back(text.substr(0, 1 + random() % longest));
    text.remove_prefix(chunks.back().size());
  }
  return chunks;
}

// The answer in one piece; fails where other cuts of the text give another answer.
inline ParsedAnswer parse_any_cut(const OutputParserOptions& options, std::string_view text) {
  const ParsedAnswer whole = parse(options, {text});
  EXPECT_EQ(parse(options, single_bytes(text)), whole) << "byte by byte: " << text;
  for (unsigned seed = 1; seed <= 4; ++seed)
    EXPECT_EQ(parse(options, random_cuts(text, seed * seed * 3, seed)), whole)
        << "cut with seed " << seed << ": " << text;
  return whole;
}

}  // namespace kt
