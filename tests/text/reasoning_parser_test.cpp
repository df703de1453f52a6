#include <gtest/gtest.h>

#include "parsed_answer.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

ParsedAnswer read(std::string_view text, bool in_reasoning, std::string_view tools = "",
                  std::string_view reasoning = "qwen3") {
  OutputParserOptions options = formats_named(tools, reasoning);
  options.in_reasoning = in_reasoning;
  return parse_any_cut(options, text);
}

TEST(ReasoningParser, SplitsAtTheClosingTagAndKeepsTheReasoningAsItIs) {
  const ParsedAnswer answer = read(" Two\n\n lines \n</think>\n\nAnswer \n", true);

  EXPECT_EQ(answer.reasoning, " Two\n\n lines \n");
  EXPECT_EQ(answer.content, "Answer \n");
}

TEST(ReasoningParser, ReadsAnOpeningTagOnlyAtTheStart) {
  EXPECT_EQ(read("\n<think>a</think>b", false), (ParsedAnswer{"a", "b"}));
  EXPECT_EQ(read("<think>a</think>b", true), (ParsedAnswer{"a", "b"}));
  EXPECT_EQ(read("Say <think>a</think>", false), (ParsedAnswer{"", "Say <think>a</think>"}));
  EXPECT_EQ(read("<think>a</think>b<think>c</think>", false), (ParsedAnswer{"a", "b<think>c</think>"}));
}

TEST(ReasoningParser, LosesNothingThatOnlyBeginsATag) {
  EXPECT_EQ(read("here </thin</think>x", true), (ParsedAnswer{"here </thin", "x"}));
  EXPECT_EQ(read("cut </think", true), (ParsedAnswer{"cut </think", ""}));
  EXPECT_EQ(read("<thi", false), (ParsedAnswer{"", "<thi"}));
  EXPECT_EQ(read("  <", false), (ParsedAnswer{"", "  <"}));
}

TEST(ReasoningParser, EndsAtACallInAnyFormOfTheModels) {
  const std::string xml = "<tool_call>\n<function=f>\n</function>\n</tool_call>";
  const std::string object = "<tool_call>{\"name\": \"f\"}</tool_call>";
  for (const std::string& call : {xml, object}) {
    const ParsedAnswer answer = read("I call <tool_call> so: " + call, true, "qwen3_coder");
    EXPECT_EQ(answer.reasoning, "I call <tool_call> so: ");
    ASSERT_EQ(answer.calls.size(), 1u) << call;
    EXPECT_EQ(answer.calls[0].name, "f");
  }
}

TEST(ReasoningParser, TakesWhatContinuesATextForTextToo) {
  OutputParserOptions options = formats_named("", "deepseek-r1");
  options.in_reasoning = true;
  options.continued = "The list: ";
  EXPECT_EQ(parse_any_cut(options, "1, 2"), (ParsedAnswer{"", "1, 2"}));
  options.continued = "<think>I";
  EXPECT_EQ(parse_any_cut(options, " think</think>1"), (ParsedAnswer{" think", "1"}));
}

TEST(ReasoningParser, TakesABlockOfWhiteSpaceForNone) {
  EXPECT_EQ(read("\n\n</think>\n\nAnswer", true), (ParsedAnswer{"", "Answer"}));
}

TEST(ReasoningParser, EndsWhereATagWasForgottenBeforeACall) {
  const std::pair<const char*, const char*> kCalls[] = {
      {"qwen3_coder", "<tool_call>\n<function=f>\n</function>\n</tool_call>"},
      {"hermes", "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>"},
      {"kimi_k2",
       "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
       "<|tool_calls_section_end|>"},
      {"deepseekv32",
       "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"f\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"},
      {"deepseekv31",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
  };
  for (const auto& [tools, call] : kCalls) {
    EXPECT_EQ(read(std::string("Search. ") + call, true, tools), (ParsedAnswer{"Search. ", "", {{"f", "{}"}}}));
    // The closing tag that comes after all is no content.
    EXPECT_EQ(read(std::string("Search.") + call + "</think>Done", true, tools),
              (ParsedAnswer{"Search.", "Done", {{"f", "{}"}}}));
  }
}

TEST(ReasoningParser, GoesOnWhereACallIsOnlyMentioned) {
  EXPECT_EQ(read("a <tool_call> tag</think>b", true, "qwen3_coder"), (ParsedAnswer{"a <tool_call> tag", "b"}));
  EXPECT_EQ(read("a <tool_call>\n<function=f>", true), (ParsedAnswer{"a <tool_call>\n<function=f>", ""}));
}

TEST(ReasoningParser, KeepsClosingTagsInsideArguments) {
  const ParsedAnswer answer =
      read("x<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"</think>\"}}</tool_call></think>y", true, "hermes");

  EXPECT_EQ(answer, (ParsedAnswer{"x", "y", {{"f", "{\"a\": \"</think>\"}"}}}));
}

TEST(ReasoningParser, ContinuesAMessageWhereItsStartLeftOff) {
  OutputParserOptions options = formats_named("", "qwen3");
  options.in_reasoning = true;
  options.continued = "<think>old</think>The answer";
  EXPECT_EQ(parse_any_cut(options, " goes on"), (ParsedAnswer{"", " goes on"}));

  options.in_reasoning = false;
  options.continued = "<think>old";
  EXPECT_EQ(parse_any_cut(options, " thought</think>Done"), (ParsedAnswer{" thought", "Done"}));
}

TEST(ReasoningParser, GivesReasoningInOnePieceWhenItIsNotToStream) {
  OutputParserOptions options = formats_named("", "deepseek-r1");
  options.stream_reasoning = false;

  const ParsedAnswer closed = parse(options, single_bytes("<think>one two</think>x"));
  const ParsedAnswer open = parse(options, single_bytes("one two"));

  EXPECT_EQ(closed, (ParsedAnswer{"one two", "x"}));
  EXPECT_EQ(closed.pieces, 2u);
  EXPECT_EQ(open, (ParsedAnswer{"one two", ""}));
  EXPECT_EQ(open.pieces, 1u);
}

TEST(ReasoningParser, StartsAsPromptTemplateArgumentsAndFormatSay) {
  const auto starts = [](const char* name, std::string_view prompt, const char* arguments) {
    return starts_in_reasoning(*find_reasoning_format(name), prompt, nlohmann::ordered_json::parse(arguments));
  };
  EXPECT_TRUE(starts("qwen3", "<|im_start|>assistant\n<think>\n", "{\"enable_thinking\": false}"));
  EXPECT_FALSE(starts("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", "null"));
  EXPECT_TRUE(starts("qwen3", "", "null"));
  EXPECT_FALSE(starts("qwen3", "", "{\"enable_thinking\": false}"));
  EXPECT_TRUE(starts("kimi_k2", "", "{\"thinking\": true}"));
  EXPECT_FALSE(starts("kimi", "", "{\"thinking\": false}"));
  EXPECT_FALSE(starts("deepseek-v3", "", "{}"));
  EXPECT_TRUE(starts("deepseek-v3", "", "{\"thinking\": true}"));
  EXPECT_TRUE(starts("deepseek-r1", "", "{\"thinking\": false}"));
  EXPECT_TRUE(starts("qwen3-thinking", "", "{}"));
}

TEST(ReasoningParser, RefusesUnknownFormatsWithTheKnownOnes) {
  EXPECT_THROW(
      try { formats_named("", "qwen4"); } catch (const Error& error) {
        EXPECT_EQ(error.exit_code(), kExitUsage);
        EXPECT_STREQ(error.what(),
                     "--reasoning-parser: unknown format 'qwen4'; known are qwen3, qwen3-thinking, kimi_k2, kimi, "
                     "deepseek-v3, deepseek-r1");
        throw;
      },
      Error);
  EXPECT_THROW(formats_named("qwen_coder", ""), Error);
}

}  // namespace
}  // namespace kt
