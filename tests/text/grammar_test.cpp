#include "runtime/text/grammars/grammar.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kEnd = 256, kThinkEnd = 257, kControl = 258, kTrue = 259;

// One token per byte, then "<end>", "</think>" and "<control>", which are special, then "true}".
class SmallTokenizer : public Tokenizer {
 public:
  SmallTokenizer() {
    for (int i = 0; i < 256; ++i) bytes_.emplace_back(1, static_cast<char>(i));
    for (const char* text : {"<end>", "</think>", "<control>", "true}"}) bytes_.emplace_back(text);
  }
  std::vector<int32_t> encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string_view bytes(int32_t id) const override { return bytes_.at(static_cast<size_t>(id)); }
  bool is_special(int32_t id) const override { return id >= kEnd && id <= kControl; }
  std::optional<int32_t> find(std::string_view) const override { return std::nullopt; }
  int32_t size() const override { return static_cast<int32_t>(bytes_.size()); }

 private:
  std::vector<std::string> bytes_;
};

GrammarCompiler small_compiler(size_t cache_bytes = 1 << 20) {
  return GrammarCompiler(SmallTokenizer(), {kEnd}, {"</think>"}, cache_bytes);
}

std::string tag(Json format) { return Json{{"type", "structural_tag"}, {"format", std::move(format)}}.dump(); }
std::string schema_tag(Json schema) { return tag({{"type", "json_schema"}, {"json_schema", std::move(schema)}}); }

bool allows(GrammarWalk& walk, int32_t token) {
  const std::span<const uint32_t> allowed = walk.allowed();
  return (allowed[static_cast<size_t>(token) / 32] >> (token % 32)) & 1;
}

// Reads the text byte by byte, each of which must be allowed.
testing::AssertionResult takes(GrammarWalk& walk, std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const int32_t token = static_cast<unsigned char>(text[i]);
    const bool allowed = allows(walk, token);
    if (walk.accept(token) != allowed) return testing::AssertionFailure() << "mask and matcher differ at " << i;
    if (!allowed) return testing::AssertionFailure() << "refused at " << i << ": " << text.substr(0, i + 1);
  }
  return testing::AssertionSuccess();
}

// A whole answer: the text, then an end.
testing::AssertionResult matches(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarWalk walk(grammar);
  if (auto taken = takes(walk, text); !taken) return taken;
  if (!allows(walk, kEnd)) return testing::AssertionFailure() << "no end after " << text;
  if (!walk.accept(kEnd) || !walk.ended()) return testing::AssertionFailure() << "the end does not end";
  return testing::AssertionSuccess();
}

const Json kWeather = Json::parse(R"({"type": "object", "properties": {"rain": {"type": "boolean"}},
                                      "required": ["rain"]})");

TEST(Grammar, AdmitsWhatTheSchemaAdmitsAndNothingElse) {
  const auto grammar = small_compiler().compile(schema_tag(kWeather));

  EXPECT_TRUE(matches(grammar, R"({"rain": true})"));
  EXPECT_TRUE(matches(grammar, R"({"rain":false})"));
  EXPECT_FALSE(matches(grammar, R"({"rain": 1})"));
  EXPECT_FALSE(matches(grammar, R"({"snow": true})"));
  EXPECT_FALSE(matches(grammar, "It rains."));
}

TEST(Grammar, AdmitsTheEndOnlyWhereTheTextMayEnd) {
  GrammarWalk walk(small_compiler().compile(schema_tag(kWeather)));

  EXPECT_FALSE(allows(walk, kEnd));
  ASSERT_TRUE(takes(walk, R"({"rain": )"));
  EXPECT_FALSE(allows(walk, kEnd));
  EXPECT_FALSE(walk.accept(kEnd));
  EXPECT_TRUE(walk.accept(kTrue));
  EXPECT_TRUE(allows(walk, kEnd));
  EXPECT_FALSE(walk.ended());
  EXPECT_TRUE(walk.accept(kEnd));
  EXPECT_TRUE(walk.ended());
}

TEST(Grammar, AdmitsTokensOfSeveralCharactersWhereAllOfThemFit) {
  GrammarWalk walk(small_compiler().compile(schema_tag(kWeather)));
  ASSERT_TRUE(takes(walk, "{"));
  EXPECT_FALSE(allows(walk, kTrue));
  ASSERT_TRUE(takes(walk, R"("rain": )"));
  EXPECT_TRUE(allows(walk, kTrue));
}

TEST(Grammar, NeverAdmitsSpecialTokensAsText) {
  GrammarWalk walk(small_compiler().compile(schema_tag({{"type", "string"}})));
  ASSERT_TRUE(takes(walk, "\"a"));
  EXPECT_TRUE(allows(walk, 'b'));
  EXPECT_FALSE(allows(walk, kControl));
  EXPECT_FALSE(walk.accept(kControl));
  EXPECT_FALSE(allows(walk, kEnd));
}

TEST(Grammar, LetsCharactersOfSeveralBytesBeSpelt) {
  EXPECT_TRUE(matches(small_compiler().compile(schema_tag({{"type", "string"}})), "\"日本 €\""));
}

TEST(Grammar, ReadsRegularExpressionsAndEbnf) {
  GrammarCompiler compiler = small_compiler();
  const auto regex = compiler.compile(tag({{"type", "regex"}, {"pattern", "[a-c]{2}-\\d+"}}));
  EXPECT_TRUE(matches(regex, "ab-12"));
  EXPECT_FALSE(matches(regex, "abc-1"));
  const auto ebnf = compiler.compile(tag({{"type", "grammar"}, {"grammar", "root ::= \"yes\" | \"no\" \"!\"*"}}));
  EXPECT_TRUE(matches(ebnf, "yes"));
  EXPECT_TRUE(matches(ebnf, "no!!"));
  EXPECT_FALSE(matches(ebnf, "maybe"));
}

TEST(Grammar, LetsTextComeFirstAndEndWithASpecialToken) {
  const Json thinking = {{"type", "tag"}, {"begin", ""}, {"content", {{"type", "any_text"}}}, {"end", "</think>"}};
  const Json answer = {{"type", "json_schema"}, {"json_schema", kWeather}};
  const auto grammar =
      small_compiler().compile(tag({{"type", "sequence"}, {"elements", Json::array({thinking, answer})}}));

  GrammarWalk walk(grammar);
  ASSERT_TRUE(takes(walk, "Is it {\"wet\"? "));
  EXPECT_FALSE(allows(walk, kEnd));
  ASSERT_TRUE(allows(walk, kThinkEnd));
  ASSERT_TRUE(walk.accept(kThinkEnd));
  EXPECT_FALSE(allows(walk, 'I'));
  EXPECT_TRUE(takes(walk, R"({"rain": true})"));
  EXPECT_TRUE(allows(walk, kEnd));

  EXPECT_TRUE(matches(grammar, "spelt out</think>{\"rain\": false}"));
}

TEST(Grammar, GoesOnSeparatelyForEveryAnswer) {
  const auto grammar = small_compiler().compile(schema_tag(kWeather));
  GrammarWalk first(grammar), second(grammar);
  ASSERT_TRUE(takes(first, "{\"rain\""));
  EXPECT_TRUE(takes(second, "{"));
  EXPECT_TRUE(allows(first, ':'));
  EXPECT_FALSE(allows(second, ':'));
}

TEST(Grammar, SaysWhatIsWrongWithItsText) {
  GrammarCompiler compiler = small_compiler();
  for (const std::string& text :
       {schema_tag({{"type", "strnig"}}), schema_tag({{"type", "integer"}, {"minimum", 3}, {"maximum", 2}}),
        tag({{"type", "regex"}, {"pattern", "(a"}}), tag({{"type", "grammar"}, {"grammar", "root ::= missing"}}),
        tag({{"type", "no_such_format"}}), schema_tag({{"$ref", "#"}}),
        tag({{"type", "grammar"}, {"grammar", "root ::= root \"a\""}}), std::string("not JSON"), std::string("{}")}) {
    try {
      compiler.compile(text);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const GrammarError& e) {
      EXPECT_STRNE(e.what(), "");
      EXPECT_EQ(std::string(e.what()).find(".cc"), std::string::npos) << e.what();
    }
  }
}

TEST(Grammar, RefusesWhatItWouldLeaveOut) {
  GrammarCompiler compiler = small_compiler();
  const std::string text = schema_tag({{"type", "number"}, {"multipleOf", 0.5}});
  EXPECT_THROW(compiler.compile(text), GrammarError);
  EXPECT_THROW(compiler.compile(text), GrammarError);  // also the second time
}

TEST(Grammar, StopsCompilingWhenAsked) {
  GrammarCompiler compiler = small_compiler();
  const std::string text = schema_tag(kWeather);
  std::stop_source stop;
  stop.request_stop();

  EXPECT_THROW(compiler.compile(text, stop.get_token()), GrammarError);
  EXPECT_TRUE(matches(compiler.compile(text), R"({"rain": true})"));
}

TEST(Grammar, KeepsTheLatestGrammarsThatFit) {
  GrammarCompiler compiler = small_compiler();
  const auto grammar = compiler.compile(schema_tag(kWeather));
  EXPECT_EQ(compiler.compile(schema_tag(kWeather)), grammar);

  GrammarCompiler forgetful = small_compiler(0);
  const auto first = forgetful.compile(schema_tag(kWeather));
  EXPECT_NE(forgetful.compile(schema_tag(kWeather)), first);
}

}  // namespace
}  // namespace kt
