#include "runtime/text/templates/deepseek_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"
#include "tests/text/shared_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A model's folder of the given name, gone at the end of the test.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& name = "model") : path_(parent_.path() / name) {
    fs::create_directories(path_ / "encoding");
  }

  ModelFolder& with(const std::string& name, const std::string& text) {
    std::ofstream(path_ / name) << text;
    return *this;
  }
  const fs::path& path() const { return path_; }

 private:
  TempFolder parent_;
  fs::path path_;
};

constexpr const char* kTools = R"([{"type": "function", "function": {"name": "now", "x": 12345678901234567890123}}])";

std::string render(const std::string& messages, const std::string& kwargs = "", const std::string& tools = "") {
  return load_chat_template({}, kDeepseekTemplate)->render(messages, tools, kwargs);
}

std::string error_of(const std::string& messages, const std::string& kwargs = "", const std::string& tools = "") {
  try {
    return "rendered to: " + render(messages, kwargs, tools);
  } catch (const TemplateError& error) {
    return error.what();
  }
}

std::string load_error(const fs::path& model) {
  return refusal_of([&] { load_chat_template(model, ""); });
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The reference's renderings. Its own errors must come in its words, others (Python's) in any.
TEST(DeepseekTemplate, TakesAnEmptyReasoningThatIsSaid) {
  const auto chat = load_chat_template({}, kDeepseekTemplate);
  const auto prompt = [&](const std::string& reasoning) {
    return chat->render(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a")" + reasoning + "}]",
                        "", R"({"thinking": true})");
  };
  EXPECT_THROW(prompt(""), TemplateError);
  EXPECT_TRUE(prompt(R"(, "reasoning_content": "")")
                  .ends_with("<｜User｜>q<｜Assistant｜><think></think>a<｜end▁of▁sentence｜>"));
}

TEST(DeepseekTemplate, EncodesAsTheReference) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const auto chat = load_chat_template({}, kDeepseekTemplate);
  const auto cases = read_cases("fixtures/templates/deepseek-v3.2.jsonl");

  for (const Json& c : cases) {
    SCOPED_TRACE(c.at("id").get<std::string>() + " " + c.at("tag").get<std::string>());
    const Json& expect = c.at("expect");
    try {
      const std::string text =
          chat->render(dump_exact(c.at("messages")), dump_exact(c.at("tools")), dump_exact(c.at("kwargs")));
      EXPECT_EQ(text, expect.value("text", "an error"));
    } catch (const TemplateError& error) {
      ASSERT_TRUE(expect.contains("error")) << error.what();
      if (expect["error"]["type"] == "DS32EncodingError") {
        EXPECT_EQ(error.what(), expect["error"]["message"].get<std::string>());
      }
    }
  }

  EXPECT_GT(cases.size(), 100u);
}

TEST(DeepseekTemplate, ThinksWhenAskedUnderEitherName) {
  const std::string hi = R"([{"role": "user", "content": "hi"}])";

  for (const char* chat :
       {"", "{}", "null", R"({"thinking": false, "enable_thinking": true})", R"({"thinking": null})"})
    EXPECT_EQ(render(hi, chat), "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜></think>") << chat;
  for (const char* thinking : {R"({"thinking": true})", R"({"enable_thinking": true})"})
    EXPECT_EQ(render(hi, thinking), "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>") << thinking;
}

TEST(DeepseekTemplate, NumbersOfCallsAndToolsArriveAsPythonWritesThem) {
  const std::string text = render(
      R"([{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"function": {"name": "f",
          "arguments": "{\"n\": NaN, \"b\": 123456789012345678901234567890, \"x\": 1e15, \"s\": \"a\"}"}}]}])",
      "", kTools);

  EXPECT_TRUE(has(text, R"({"name": "now", "x": 12345678901234567890123})"));
  EXPECT_TRUE(has(text, R"(<｜DSML｜parameter name="n" string="false">NaN</｜DSML｜parameter>
<｜DSML｜parameter name="b" string="false">123456789012345678901234567890</｜DSML｜parameter>
<｜DSML｜parameter name="x" string="false">1000000000000000.0</｜DSML｜parameter>
<｜DSML｜parameter name="s" string="true">a</｜DSML｜parameter>)"));
}

TEST(DeepseekTemplate, ThinkingModeTakesMessagesAsTheyAre) {
  const std::string messages = R"([{"role": "user", "content": null}, {"role": "tool", "content": "r"}])";

  EXPECT_EQ(render(R"([{"role": "user", "content": null}])", R"({"thinking_mode": "chat"})"),
            "<｜begin▁of▁sentence｜><｜User｜>None<｜Assistant｜></think>");
  EXPECT_EQ(render("[]", R"({"thinking_mode": "chat"})"), "<｜begin▁of▁sentence｜>");
  EXPECT_TRUE(has(error_of(messages, R"({"thinking_mode": "chat"})"), "Invalid messages at 1:\n{'role': 'user',"));
  EXPECT_TRUE(has(error_of("[]", R"({"thinking_mode": "chat"})", kTools), "member of a system or developer message"));
}

TEST(DeepseekTemplate, WrongConversationsAreTheClientsErrors) {
  EXPECT_EQ(error_of(R"([{"role": "tool", "content": "r"}])"),
            "Invalid messages at 1:\n{'role': 'system', 'content': ''}");
  EXPECT_EQ(error_of(R"([{"role": "user"}, {"role": "assistant", "content": "a"}, {"role": "tool"}])"),
            "No tool calls but found tool output");
  EXPECT_EQ(error_of(R"([{"role": "judge"}])"), "Unknown role: judge");
  EXPECT_EQ(error_of(R"([{"role": "developer"}])", R"({"thinking_mode": "chat"})"),
            "Invalid message for role `developer`: {'role': 'developer'}");
  EXPECT_EQ(error_of("[]", R"({"thinking_mode": "loud"})"), "Invalid thinking_mode `loud`");
}

TEST(DeepseekTemplate, NothingThatAClientSendsEscapesAsAnotherError) {
  for (const char* text :
       {"{", "1", "\"a\"", "[1]", "[null]", "{}", "[[]]", R"([{"role": 1}])", R"([{}])",
        R"([{"role": "assistant", "tool_calls": 1}])", R"([{"role": "assistant", "tool_calls": [1]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": 1}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "\ud800"}}]}])",
        R"([{"role": "assistant", "tool_calls": {"a": 1}}, {"role": "tool"}])", R"([{"role": "system", "tools": 1}])",
        R"([{"role": "system", "tools": [1]}])"})
    EXPECT_FALSE(has(error_of(text), "rendered to")) << text;
  for (const char* kwargs : {"[]", "{", R"({"thinking": "false"})", R"({"thinking_mode": 1})", R"({"context": 1})",
                             R"({"context": [1]})", R"({"tools_header": "wide"})", R"({"drop_thinking": 1})"})
    EXPECT_FALSE(has(error_of(R"([{"role": "user", "content": ""}])", kwargs), "rendered to")) << kwargs;
  for (const char* tools : {"1", "{\"a\": 1}", "[1]", "[{}]", "\"a\""})
    EXPECT_FALSE(has(error_of(R"([{"role": "user", "content": ""}])", "", tools), "rendered to")) << tools;
}

TEST(DeepseekTemplate, IsChosenByTheFolderOfAModelWithoutTemplate) {
  const std::string messages = R"([{"role": "user", "content": "hi"}])";
  const std::string expected = "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜></think>";
  ModelFolder model, other;

  model.with("config.json", R"({"model_type": "deepseek_v32"})");
  EXPECT_EQ(load_chat_template(model.path(), "")->render(messages, "", ""), expected);
  model.with("config.json", R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"})");
  EXPECT_EQ(load_chat_template(model.path(), "")->render(messages, "", ""), expected);
  fs::remove(model.path() / "encoding");
  EXPECT_TRUE(has(load_error(model.path()), "neither chat_template.jinja nor"));
  other.with("config.json", R"({"model_type": "deepseek_v32"})").with("chat_template.jinja", "own");
  EXPECT_EQ(load_chat_template(other.path(), "")->render(messages, "", ""), "own");
}

TEST(DeepseekTemplate, TakesTheCheckpointsTextAboutTools) {
  const std::string messages = R"([{"role": "user", "content": "hi"}])";
  ModelFolder model;
  model.with("config.json", R"({"model_type": "deepseek_v32"})");
  model.with("encoding/encoding_dsv32.py",
             "import os\nos.abort()\nTOOLS_SYSTEM_TEMPLATE = \"\"\"Own {dsml_token} {{x}} {tool_schemas} "
             "{thinking_start_token}{thinking_end_token}\\n\"\"\"\n");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(
      chat->render(messages, R"([{"function": 1}, {"function": {"a": 2}}])", ""),
      "<｜begin▁of▁sentence｜>\n\nOwn ｜DSML｜ {x} 1\n{\"a\": 2} <think></think>\n<｜User｜>hi<｜Assistant｜></think>");
  EXPECT_TRUE(has(chat->render(messages, kTools, R"({"tools_header": "spaced"})"), "## Tools\n\nYou have"));
}

TEST(DeepseekTemplate, ATextAboutToolsThatIsNotUnderstoodIsAnErrorOfTheModel) {
  ModelFolder model;
  model.with("config.json", R"({"model_type": "deepseek_v32"})");

  for (const char* source : {"", "TOOLS_SYSTEM_TEMPLATE = make()", "TOOLS_SYSTEM_TEMPLATE = '{other}'",
                             "TOOLS_SYSTEM_TEMPLATE = '{'", "TOOLS_SYSTEM_TEMPLATE = '}'"}) {
    model.with("encoding/encoding_dsv32.py", source);
    EXPECT_TRUE(has(load_error(model.path()), "encoding_dsv32.py: ")) << source;
    EXPECT_TRUE(has(load_error(model.path()), "TOOLS_SYSTEM_TEMPLATE")) << source;
  }
}

TEST(DeepseekTemplate, SpecialeRefusesTools) {
  const std::string messages = R"([{"role": "user", "content": "hi"}])";
  const auto error = [&](const ChatTemplate& chat) {
    EXPECT_TRUE(has(chat.render(messages, "", ""), "hi"));
    try {
      return chat.render(messages, kTools, "");
    } catch (const TemplateError& refused) {
      return std::string(refused.what());
    }
  };
  const std::string words = "DeepSeek-V3.2-Speciale does not call tools";

  EXPECT_TRUE(has(error(*load_chat_template({}, kSpecialeTemplate)), words));
  for (const char* name : {"deepseek-v3.2-speciale", "models--deepseek-ai--DeepSeek-V3.2-Speciale/snapshots/0a1b"}) {
    ModelFolder model(name);
    model.with("config.json", R"({"model_type": "deepseek_v32"})");
    EXPECT_TRUE(has(error(*load_chat_template(model.path(), "")), words)) << name;
    EXPECT_TRUE(has(error(*load_chat_template(model.path() / "", kDeepseekTemplate)), words)) << name;
  }
}

}  // namespace
}  // namespace kt
