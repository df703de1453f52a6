// Answers at random that the grammar of a JSON schema admits, for schemas_test.py.
//
//     schema_answers < LINES
//
// In:  {"schema", "seed", "answers": how many, "try": [texts]}; with "form", the name of a tool parser, the schema is
// of
//      the parameters of a strict tool.
// Out: {"refused": why}, or {"answers": [whole texts], "unfinished": how many were cut, "admitted": [which of try]}; of
//      calls the arguments, as the parser reads them.
#include <fmt/format.h>

#include <iostream>
#include <random>
#include <string>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/chat/call_format.h"
#include "runtime/serve/errors.h"
#include "runtime/text/answers/output_parser.h"
#include "runtime/text/grammars/grammar.h"
#include "tests/serve/fakes.h"

namespace kt {
namespace {

constexpr size_t kMaxBytes = 600;

bool allows(std::span<const uint32_t> allowed, int32_t token) {
  return (allowed[static_cast<size_t>(token) / 32] >> (token % 32)) & 1;
}

// What ends things is likelier the longer the text is.
double weight(unsigned char byte, size_t length) {
  const double hurry = length > 60 ? 200 : 3;
  if (byte == '"' || byte == '}' || byte == ']') return hurry;
  if (byte == '\n') return length > 60 ? 10 : 0.3;
  if (byte == ' ' || byte == '\t') return 0.3;
  if (byte == ',' || byte == '[' || byte == '{') return length > 60 ? 0.05 : 2;
  if (byte >= 0x80) return 0.02;
  if (byte == '\\' || byte == '.' || byte == 'e' || byte == 'E') return 0.5;
  if (byte == '<' || byte == '/') return 2;
  return byte >= '0' && byte <= '9' ? 1 : 0.4;
}

// A whole text, or nothing when it became too long or came to a dead end.
std::optional<std::string> walk(const std::shared_ptr<const Grammar>& grammar, std::mt19937& random) {
  GrammarWalk walk(grammar);
  std::string text;
  while (text.size() < kMaxBytes) {
    const std::span<const uint32_t> allowed = walk.allowed();
    if (allows(allowed, kFakeEos) && (text.size() > 60 || random() % 3 == 0)) return text;
    std::vector<double> weights;
    double sum = 0;
    for (int byte = 0; byte < 256; ++byte) {
      weights.push_back(allows(allowed, byte) ? weight(static_cast<unsigned char>(byte), text.size()) : 0);
      sum += weights.back();
    }
    if (sum == 0) {
      if (allows(allowed, kFakeEos)) return text;
      throw std::runtime_error("a dead end behind " + text);
    }
    const int byte = std::discrete_distribution<int>(weights.begin(), weights.end())(random);
    if (!walk.accept(byte)) throw std::runtime_error("mask and matcher differ behind " + text);
    text += static_cast<char>(byte);
  }
  return std::nullopt;
}

bool admits(const std::shared_ptr<const Grammar>& grammar, const std::string& text) {
  GrammarWalk walk(grammar);
  for (const char c : text) {
    if (!walk.accept(static_cast<unsigned char>(c))) return false;
  }
  return walk.accept(kFakeEos);
}

Json tools_of(const Json& line) {
  const Json function = {{"name", "f"}, {"strict", true}, {"parameters", line["schema"]}};
  return Json::array({{{"type", "function"}, {"function", function}}});
}

Json format_of(const Json& line) {
  const std::string form = line.value("form", "");
  if (form.empty()) return schema_format(line["schema"], "schema");
  return calls_alone(*find_call_form(*find_tool_format(form)), tools_of(line), /*one_call=*/true);
}

std::string arguments_of(const Json& line, const std::string& text) {
  OutputParserOptions options = formats_named(line["form"].get<std::string>(), "");
  options.tool_list = tools_of(line);
  OutputParser parser(options);
  OutputPieces pieces = parser.push(text);
  for (OutputPiece& piece : parser.flush()) pieces.push_back(std::move(piece));
  std::string arguments;
  for (const OutputPiece& piece : pieces) {
    if (piece.kind == OutputPiece::Kind::kArguments) arguments += piece.text;
    if (piece.kind == OutputPiece::Kind::kContent) throw std::runtime_error("text beside the call " + text);
  }
  return arguments;
}

Json answer(const Json& line) {
  std::shared_ptr<const Grammar> grammar;
  try {
    grammar = fake_grammar(to_structural_tag(format_of(line)));
  } catch (const BadRequest& e) {
    return {{"refused", e.what()}};
  } catch (const GrammarError& e) {
    return {{"refused", fmt::format("by the compiler: {}", e.what())}, {"late", true}};
  }
  Json out = {{"answers", Json::array()}, {"admitted", Json::array()}};
  std::mt19937 random(line["seed"].get<unsigned>());
  int unfinished = 0;
  for (int i = 0; i < line["answers"].get<int>(); ++i) {
    if (std::optional<std::string> text = walk(grammar, random))
      out["answers"].push_back(line.contains("form") ? arguments_of(line, *text) : *text);
    else
      ++unfinished;
  }
  out["unfinished"] = unfinished;
  for (const Json& text : line.value("try", Json::array())) out["admitted"].push_back(admits(grammar, text));
  return out;
}

}  // namespace
}  // namespace kt

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    try {
      std::cout << kt::answer(kt::parse_body(line)).dump() << std::endl;  // throws for what is not UTF-8
    } catch (const std::exception& e) {
      std::cout << kt::dump({{"error", e.what()}}) << std::endl;
    }
  }
}
