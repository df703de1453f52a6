// Answers that go on with a turn of the assistant, and histories as the templates of the families print them.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/chat/messages.h"
#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/sglang/text_endpoints.h"
#include "runtime/text/templates/deepseek_template.h"
#include "tests/serve/support.h"
#include "tests/temp_folder.h"
#include "tests/text/shared_folder.h"

namespace kt {
namespace {

// Opens a block of reasoning in the generation prompt, and prints one in the last turn.
constexpr std::string_view kThinking =
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content | trim }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}";

std::unique_ptr<ChatTemplate> thinking_template() {
  const TempFolder folder;
  folder.write("chat_template.jinja", std::string(kThinking));
  return load_chat_template(folder.path(), "");
}

struct Model {
  std::unique_ptr<ChatTemplate> chat_template = thinking_template();
  ServedModel served = fake_model();
  explicit Model(std::string_view reasoning = "qwen3") {
    served.chat_template = chat_template.get();
    served.reasoning = find_reasoning_format(reasoning);
  }
};

std::string chat(const std::string& last, const std::string& members = R"(, "continue_final_message": true)") {
  return R"({"messages": [{"role": "user", "content": "q"}, )" + last + "]" + members + "}";
}

TEST(Prefill, GoesOnBehindTheReasoning) {
  const Model model;
  const std::string begun = R"({"role": "assistant", "content": "{\"list\": [ "})";
  EXPECT_EQ(prompt_of(job_of(parse_chat(chat(begun, ""), model.served))),
            "<user>q<assistant><think>\n\n</think>\n\n{\"list\": [<assistant><think>\n");

  Job openai = job_of(parse_chat(chat(begun), model.served));
  Job anthropic = job_of(parse_messages(chat(begun, R"(, "max_tokens": 9)"), model.served));
  EXPECT_EQ(prompt_of(openai), "<user>q<assistant><think>\n\n</think>\n\n{\"list\": [ ");
  EXPECT_EQ(prompt_of(anthropic), prompt_of(openai));
  const Json message = Json::parse(play(openai, "1, 2]}", 2))["choices"][0]["message"];
  EXPECT_EQ(message["content"], "1, 2]}");
  EXPECT_TRUE(message["reasoning_content"].is_null());
  const Json blocks = Json::parse(play(anthropic, "1, 2]}", 2))["content"];
  EXPECT_EQ(blocks.dump(), R"([{"type":"text","text":"1, 2]}"}])");
}

TEST(Prefill, KeepsTheReasoningThatTheTurnHas) {
  const Model model;
  EXPECT_EQ(prompt_of(job_of(parse_chat(chat(R"({"role": "assistant", "content": "So", "reasoning_content": "Hm."})"),
                                        model.served))),
            "<user>q<assistant><think>\nHm.\n</think>\n\nSo");
}

TEST(Prefill, MayBeginWithReasoningToo) {
  const Model model;
  Job job = job_of(parse_chat(chat(R"({"role": "assistant", "content": "<think>I should"})"), model.served));
  EXPECT_EQ(prompt_of(job), "<user>q<assistant><think>\nI should");
  const Json message = Json::parse(play(job, " go.</think>Yes.", 3))["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], " go.");
  EXPECT_EQ(message["content"], "Yes.");
}

TEST(Prefill, IsContentForModelsThatAlwaysReason) {
  const Model model("deepseek-r1");
  Job job = job_of(parse_chat(chat(R"({"role": "assistant", "content": "So"})"), model.served));
  EXPECT_EQ(Json::parse(play(job, " it is", 3))["choices"][0]["message"]["content"], " it is");
}

TEST(Prefill, OfNothingIsNoPrefill) {
  const Model model;
  EXPECT_EQ(prompt_of(job_of(parse_chat(chat(R"({"role": "assistant", "content": ""})"), model.served))),
            "<user>q<assistant><think>\n");
}

TEST(Stops, AreForTheAnswerWhereReasoningIsToldApart) {
  const Model model;
  const auto sampling = [&](const std::string& members) {
    return job_of(parse_chat(chat(R"({"role": "user", "content": "r"})", members), model.served)).requests[0].sampling;
  };
  EXPECT_TRUE(sampling(R"(, "stop": ["x"])").reasoning);
  EXPECT_TRUE(sampling(R"(, "stop_regex": "x")").reasoning);
  EXPECT_FALSE(sampling("").reasoning) << "nothing would be held back for it";
  EXPECT_FALSE(sampling(R"(, "stop": ["x"], "separate_reasoning": false)").reasoning);
  EXPECT_TRUE(job_of(parse_messages(
                         chat(R"({"role": "user", "content": "r"})", R"(, "stop_sequences": ["x"], "max_tokens": 5)"),
                         model.served))
                  .requests[0]
                  .sampling.reasoning);
}

// A tokenizer that puts 1 before every text.
struct WithBos : FakeTokenizer {
  std::vector<int32_t> encode(std::string_view text, EncodeOptions options) const override {
    std::vector<int32_t> ids = FakeTokenizer::encode(text, options);
    if (options.add_special_tokens) ids.insert(ids.begin(), 1);
    return ids;
  }
};

TEST(SpecialTokens, StandAroundTextsButNotAroundChats) {
  const WithBos tokenizer;
  ServedModel model = fake_model();
  model.tokenizer = &tokenizer;
  const auto tokens = [&](const std::string& body) {
    return Json::parse(std::get<std::string>(tokenize(body, model)))["tokens"].dump();
  };
  EXPECT_EQ(tokens(R"({"prompt": "a"})"), "[1,97]");
  EXPECT_EQ(tokens(R"({"prompt": ["a", "b"]})"), "[[1,97],[1,98]]");
  EXPECT_EQ(tokens(R"({"prompt": "a", "add_special_tokens": false})"), "[97]");
  EXPECT_EQ(tokens(R"({"messages": [{"role": "user", "content": ""}], "kwargs": {"add_generation_prompt": false}})"),
            "[117,115,101,114,58,59]");
  const Job job = job_of(parse_chat(R"({"messages": [{"role": "user", "content": "a"}]})", model));
  EXPECT_EQ(job.requests[0].input_ids.front(), 'u');
}

// What the templates of the families make of histories that clients could not change.
class Families : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SKIP_WITHOUT_SHARED_FOLDER();
    const std::string name = GetParam();
    const auto file = shared_folder() / "fixtures/templates/templates" / (name + ".jinja");
    template_ = load_chat_template({}, name == kDeepseekTemplate ? name : file.string());
    model_ = fake_model();
    model_.chat_template = template_.get();
    const bool kimi = name.starts_with("kimi"), deepseek = name == kDeepseekTemplate;
    model_.tools = find_tool_format(kimi ? "kimi_k2" : deepseek ? "deepseekv32" : "qwen3_coder");
    model_.reasoning = find_reasoning_format(kimi ? "kimi_k2" : deepseek ? "deepseek-v3" : "qwen3");
  }

  std::string prompt(const std::string& messages, bool thinking = true) {
    const Json body = {{"messages", Json::parse(messages)},
                       {"chat_template_kwargs", {{"thinking", thinking}, {"enable_thinking", thinking}}}};
    const auto answer = apply_template(body.dump(), model_);
    if (const ApiError* error = std::get_if<ApiError>(&answer)) {
      ADD_FAILURE() << error->message << "\n" << messages;
      return "";
    }
    return Json::parse(std::get<std::string>(answer))["prompt"].get<std::string>();
  }

  std::unique_ptr<ChatTemplate> template_;
  ServedModel model_;
};

// Each text stands in the prompt, behind the one before.
void expect_in_order(const std::string& prompt, const std::vector<std::string>& texts) {
  size_t at = 0;
  for (const std::string& text : texts) {
    at = prompt.find(text, at);
    ASSERT_NE(at, prompt.npos) << text << " is not there in:\n" << prompt;
    at += text.size();
  }
}

constexpr const char* kTwoCalls =
    R"({"role": "assistant", "content": null, "tool_calls": [
         {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}},
         {"id": "b", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]})";

TEST_P(Families, PrintResultsInTheOrderOfTheirCalls) {
  expect_in_order(prompt(std::string("[{\"role\": \"user\", \"content\": \"q\"}, ") + kTwoCalls +
                         R"(, {"role": "user", "content": "by the way"},
                            {"role": "tool", "tool_call_id": "b", "content": "31 degrees"},
                            {"role": "tool", "tool_call_id": "a", "content": "-4 degrees"}])"),
                  {"Oslo", "Rome", "-4 degrees", "31 degrees", "by the way"});
}

TEST_P(Families, PrintAHistoryWithoutAUser) {
  const std::string rest =
      std::string(kTwoCalls) + R"(, {"role": "tool", "tool_call_id": "a", "content": "-4 degrees"}])";
  for (const bool thinking : {true, false}) {
    expect_in_order(prompt("[" + rest, thinking), {"Oslo", "-4 degrees", "[no result]"});
    expect_in_order(prompt(R"([{"role": "system", "content": "Be brief."}, )" + rest, thinking),
                    {"Be brief.", "Oslo", "-4 degrees"});
    expect_in_order(
        prompt(R"([{"role": "assistant", "content": "Summary."}, {"role": "assistant", "content": "So."}])", thinking),
        {"Summary.", "So."});
    expect_in_order(prompt(R"([{"role": "tool", "tool_call_id": "gone", "content": "-4 degrees"}])", thinking),
                    {"-4 degrees"});
  }
}

TEST_P(Families, PrintEverySystemMessage) {
  const std::string text = prompt(
      R"([{"role": "developer", "content": "Be brief."}, {"role": "system", "content": "Be kind."},
          {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
          {"role": "system", "content": "In French."}, {"role": "user", "content": "r"}])");
  for (const char* part : {"Be brief.", "Be kind.", "In French."}) EXPECT_NE(text.find(part), text.npos) << text;
}

TEST_P(Families, PrintArgumentsThatAreNoJson) {
  for (const char* arguments :
       {R"("{\"path\": \"first li")", R"("null")", R"("")", "null", R"({"path": "first li"})"}) {
    const std::string text = prompt(fmt::format(
        R"([{{"role": "user", "content": "q"}}, {{"role": "assistant", "content": null, "tool_calls": [{{"id": "a",
            "function": {{"name": "write", "arguments": {}}}}}]}}, {{"role": "tool", "tool_call_id": "a", "content": "r"}},
            {{"role": "user", "content": "s"}}])",
        arguments));
    EXPECT_EQ(text.find("first li") != text.npos, std::string_view(arguments).find("first") != std::string_view::npos);
    EXPECT_NE(text.find("write"), text.npos);
  }
}

TEST_P(Families, GoOnWithABegunAnswerBehindTheReasoning) {
  for (const bool thinking : {true, false}) {
    const Json body = {{"messages", Json::parse(R"([{"role": "user", "content": "q"},
                                                   {"role": "assistant", "content": "{\"list\": ["}])")},
                       {"continue_final_message", true},
                       {"chat_template_kwargs", {{"thinking", thinking}, {"enable_thinking", thinking}}}};
    Job job = job_of(parse_chat(body.dump(), model_));
    const std::string text = prompt_of(job);
    EXPECT_TRUE(text.ends_with("{\"list\": [")) << text;
    const size_t open = text.rfind("<think>"), close = text.rfind("</think>");
    EXPECT_TRUE(open == text.npos || (close != text.npos && open < close)) << text;
    EXPECT_EQ(Json::parse(play(job, "1]}", 1))["choices"][0]["message"]["content"], "1]}");
  }
}

std::string name_of(const testing::TestParamInfo<const char*>& family) {
  std::string name = family.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Templates, Families,
                         testing::Values("qwen3.5", "qwen3-coder-next", "kimi-k2-thinking", "deepseek-v3.2"), name_of);

}  // namespace
}  // namespace kt
