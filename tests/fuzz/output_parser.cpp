// An answer of a model: the first byte chooses the formats, the rest is the text. How it is cut changes nothing.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "runtime/text/answers/output_parser.h"
#include "tests/fuzz/require.h"

namespace {

kt::OutputParserOptions options_of(uint8_t choice) {
  const auto tools = kt::tool_formats();
  const auto reasonings = kt::reasoning_formats();
  const size_t tool = choice % (tools.size() + 1), reasoning = choice / 16 % (reasonings.size() + 1);
  kt::OutputParserOptions options;
  if (tool < tools.size()) options.tools = &tools[tool];
  if (reasoning < reasonings.size()) options.reasoning = &reasonings[reasoning];
  options.tool_list = nlohmann::ordered_json::parse(
      R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
          "s": {"type": "string"}, "i": {"type": "integer"}, "o": {"type": "object"}, "a": {"type": "array"}}}}}])");
  options.in_reasoning = choice >= 128;
  return options;
}

// The answer joined: kind and call of each run of pieces, with its text.
using Joined = std::vector<std::tuple<kt::OutputPiece::Kind, int, std::string>>;

Joined read(const kt::OutputParserOptions& options, std::string_view text, size_t bytes_at_once) {
  kt::OutputParser parser(options);
  Joined joined;
  const auto take = [&](const kt::OutputPieces& pieces) {
    for (const kt::OutputPiece& piece : pieces) {
      if (joined.empty() || std::get<0>(joined.back()) != piece.kind || std::get<1>(joined.back()) != piece.call)
        joined.emplace_back(piece.kind, piece.call, "");
      std::get<2>(joined.back()) += piece.text;
    }
  };
  for (size_t at = 0; at < text.size(); at += bytes_at_once) take(parser.push(text.substr(at, bytes_at_once)));
  take(parser.flush());
  return joined;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const kt::OutputParserOptions options = options_of(data[0]);
  const Joined whole = read(options, text, std::max<size_t>(text.size(), 1));
  for (const size_t bytes : {1, 7}) require(read(options, text, bytes) == whole, "cuts do not change the answer");
  return 0;
}
