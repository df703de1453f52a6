// Members that change an answer and cannot be done are refused by name; values that ask for nothing are taken.
#include "runtime/serve/unsupported.h"

#include <gtest/gtest.h>

#include "runtime/serve/anthropic/anthropic.h"
#include "runtime/serve/openai/openai_chat.h"
#include "runtime/serve/openai/openai_completions.h"
#include "runtime/serve/sglang/generate.h"
#include "tests/serve/support.h"

namespace kt {
namespace {

constexpr std::string_view kChat = R"("messages": [{"role": "user", "content": "hi"}], "max_tokens": 5)";

// The parameter that the dialect refuses, "" when it takes the request.
template <class Parse>
std::string refused(Parse parse, std::string_view start, const std::string& member) {
  const auto parsed = parse(fmt::format("{{{}, {}}}", start, member), fake_model());
  const ApiError* error = std::get_if<ApiError>(&parsed);
  return error ? error->param : "";
}

std::string refused_by_chat(const std::string& member) { return refused(parse_chat, kChat, member); }
std::string refused_by_completions(const std::string& member) {
  return refused(parse_completions, R"("prompt": "hi")", member);
}
std::string refused_by_messages(const std::string& member) { return refused(parse_messages, kChat, member); }
std::string refused_by_generate(const std::string& member) {
  return refused([](std::string_view body, const ServedModel& model) { return parse_generate(body, model); },
                 R"("text": "hi")", member);
}

TEST(Unsupported, IsRefusedByNameInEveryDialect) {
  for (const auto& [name, value] : std::vector<std::pair<std::string, std::string>>{
           {"use_beam_search", "true"},
           {"length_penalty", "0.5"},
           {"allowed_token_ids", "[1]"},
           {"bad_words", R"(["x"])"},
           {"prompt_logprobs", "0"},
           {"prompt_logprobs", "5"},
           {"logprob_token_ids", "[1]"},
           {"return_token_ids", "true"},
           {"return_hidden_states", "true"},
           {"thinking_token_budget", "0"},
           {"lora_path", R"("a")"},
           {"custom_params", R"({"a": 1})"},
           {"session_params", R"({"id": "a"})"},
           {"modalities", R"(["text", "audio"])"},
           {"guided_json", R"({"type": "object"})"},
           {"guided_json", "{}"},
           {"web_search_options", "{}"},
           {"structured_outputs", R"({"regex": "a"})"},
           {"grammar", R"("root ::= x")"},
           {"function_call", R"({"name": "f"})"},
           {"mcp_servers", R"([{"url": "x"}])"},
           {"kv_transfer_params", R"({"a": 1})"},
       }) {
    const std::string member = fmt::format("\"{}\": {}", name, value);
    EXPECT_EQ(refused_by_chat(member), name) << member;
    EXPECT_EQ(refused_by_completions(member), name) << member;
    EXPECT_EQ(refused_by_messages(member), name) << member;
    EXPECT_EQ(refused_by_generate(member), name) << member;
    EXPECT_EQ(refused_by_generate(R"("sampling_params": {)" + member + "}"), "sampling_params." + name) << member;
  }
}

TEST(Unsupported, ValuesThatAskForNothingAreTaken) {
  for (const std::string member : {R"("use_beam_search": false)",
                                   R"("length_penalty": 1.0)",
                                   R"("allowed_token_ids": [])",
                                   R"("bad_words": [])",
                                   R"("prompt_logprobs": null)",
                                   R"("return_token_ids": false)",
                                   R"("thinking_token_budget": -1)",
                                   R"("lora_path": null)",
                                   R"("lora_path": "")",
                                   R"("lora_path": [null])",
                                   R"("custom_params": {})",
                                   R"("modalities": ["text"])",
                                   R"("function_call": "none")",
                                   R"("best_of": 1)",
                                   R"("spaces_between_special_tokens": true)",
                                   R"("store": true)",
                                   R"("metadata": {"a": "b"})",
                                   R"("user": "me")",
                                   R"("service_tier": "auto")",
                                   R"("prediction": {"type": "content", "content": "x"})"}) {
    EXPECT_EQ(refused_by_chat(member), "") << member;
    EXPECT_EQ(refused_by_completions(member), "") << member;
    EXPECT_EQ(refused_by_messages(member), "") << member;
    EXPECT_EQ(refused_by_generate(member), "") << member;
  }
}

TEST(Unsupported, ChatsHaveNoEchoAndNoPromptBesideTheirMessages) {
  EXPECT_EQ(refused_by_chat(R"("echo": true)"), "echo");
  EXPECT_EQ(refused_by_chat(R"("input_ids": [1])"), "input_ids");
  EXPECT_EQ(refused_by_chat(R"("documents": [{"text": "x"}])"), "documents");
  EXPECT_EQ(refused_by_chat(R"("chat_template": "x")"), "chat_template");
  EXPECT_EQ(refused_by_chat(R"("add_special_tokens": true)"), "add_special_tokens");
  EXPECT_EQ(refused_by_chat(R"("add_special_tokens": false)"), "");
  EXPECT_EQ(refused_by_completions(R"("echo": true)"), "");
}

}  // namespace
}  // namespace kt
