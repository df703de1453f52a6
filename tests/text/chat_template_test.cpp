#include "runtime/text/templates/chat_template.h"

#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/error.h"
#include "tests/temp_folder.h"
#include "tests/text/shared_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A folder of files, gone at the end of the test.
class ModelFolder : public TempFolder {
 public:
  ModelFolder& with(const std::string& name, const std::string& text) {
    write(name, text);
    return *this;
  }
};

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const TemplateError& error) {
    return error.what();
  }
  return "no error";
}

Error load_error(const fs::path& model, const std::string& file_or_name) {
  try {
    load_chat_template(model, file_or_name);
  } catch (const Error& error) {
    return error;
  }
  return Error(kExitOk, "no error");
}

TEST(ChatTemplate, RendersWithTheFoldersTemplateAndSpecialTokens) {
  ModelFolder model;
  model.with("chat_template.jinja",
             "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}"
             "{% endfor %}{% if add_generation_prompt %}>{% endif %}{{ pad_token }}\n");
  model.with("tokenizer_config.json",
             R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": null, "add_bos_token": true,
                 "chat_template": "not this one"})");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(chat->render(R"([{"role":"user","content":"hi"}])", "", R"({"add_generation_prompt": true})"),
            "<s>user:hi</s>>");
  EXPECT_EQ(chat->render("[]", "null", ""), "<s>");
}

TEST(ChatTemplate, TakesTheTemplateOfTheConfigAndTheOneForTools) {
  ModelFolder model;
  model.with("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                          {"name": "tool_use", "template": "{{ tools | length }} tools"}]})");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(chat->render("[]", "", "{}"), "plain");
  EXPECT_EQ(chat->render("[]", "[{},{}]", "{}"), "2 tools");
}

TEST(ChatTemplate, TraitsSayWhatItTakes) {
  using System = TemplateTraits::System;
  const auto traits = [](const std::string& text) {
    ModelFolder model;
    return load_chat_template(model.with("chat_template.jinja", text).path(), "")->traits();
  };
  const std::string print = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}";

  EXPECT_EQ(traits(print).system, System::anywhere);
  EXPECT_FALSE(traits(print).needs_user);
  EXPECT_FALSE(traits(print).text_parts) << "prints a list as Python does";
  EXPECT_EQ(traits("{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}"
                   "{% endif %}{{ m.content }}{% endfor %}")
                .system,
            System::first);
  EXPECT_EQ(
      traits("{{ messages[0].content }}{% for m in messages[1:] if m.role != 'system' %}{{ m.content }}{% endfor %}")
          .system,
      System::first)
      << "leaves others out without a word";
  EXPECT_EQ(traits("{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
                   "{{ m.content }}{% endfor %}")
                .system,
            System::none);
  EXPECT_TRUE(traits("{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
                     "{{ raise_exception('no') }}{% endif %}" +
                     print)
                  .needs_user);
  EXPECT_TRUE(traits("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                     "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}")
                  .text_parts);
  EXPECT_EQ(traits("{{ raise_exception('no') }}").system, System::anywhere) << "says nothing about itself";
}

TEST(ChatTemplate, TraitsOfTheFamilies) {
  SKIP_WITHOUT_SHARED_FOLDER();
  using System = TemplateTraits::System;
  const auto traits = [](const std::string& name) {
    return load_chat_template({}, (shared_folder() / "fixtures/templates/templates" / (name + ".jinja")).string())
        ->traits();
  };
  const TemplateTraits qwen = traits("qwen3.5"), coder = traits("qwen3-coder-next"), kimi = traits("kimi-k2-thinking");

  EXPECT_TRUE(qwen.system == System::first && qwen.needs_user && qwen.text_parts);
  EXPECT_TRUE(coder.system == System::anywhere && !coder.needs_user && !coder.text_parts);
  EXPECT_TRUE(kimi.system == System::anywhere && !kimi.needs_user && kimi.text_parts);
}

TEST(ChatTemplate, NumbersArriveAsWritten) {
  ModelFolder model;
  model.with("chat_template.jinja", "{{ messages | tojson }} {{ tools | tojson }} {{ big }}");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(chat->render("[123456789012345678901234567890, 2.0, 1e16]", R"([{"z": 1, "a": -0.0}])",
                         R"({"big": 99999999999999999999})"),
            R"([123456789012345678901234567890, 2.0, 1e+16] [{"z": 1, "a": -0.0}] 99999999999999999999)");
}

TEST(ChatTemplate, KwargsCannotReplaceTheMessages) {
  ModelFolder model;
  model.with("chat_template.jinja", "{{ messages }} {{ tools }} {{ documents }}");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(chat->render("[1]", "", R"({"messages": [2], "tools": [3], "documents": [4]})"), "[1] None [4]");
}

TEST(ChatTemplate, TheClientsMistakesAreTemplateErrors) {
  ModelFolder model;
  model.with("chat_template.jinja",
             "{% if messages|length == 0 %}{{ raise_exception('No messages: \\'0\\'.') }}{% endif %}"
             "{{ messages[0] + 'x' }}");

  const auto chat = load_chat_template(model.path(), "");

  EXPECT_EQ(error_of([&] { chat->render("[]", "", ""); }), "No messages: '0'.");
  EXPECT_EQ(error_of([&] { chat->render("[1]", "", ""); }), "unsupported operand type(s) for +: 'int' and 'str'");
  EXPECT_NE(error_of([&] { chat->render("[1", "", ""); }), "no error");
  EXPECT_NE(error_of([&] { chat->render("[\"\\ud800\"]", "", ""); }), "no error");
  EXPECT_NE(error_of([&] { chat->render("[\"\xff\"]", "", ""); }), "no error");
  EXPECT_NE(error_of([&] { chat->render("[]", "", "[1]"); }), "no error");
  EXPECT_NE(error_of([&] { chat->render(std::string(1000000, '['), "", ""); }), "no error");
  EXPECT_EQ(chat->render(R"(["a"])", "", ""), "ax");
}

TEST(ChatTemplate, AFolderWithoutTemplateAndAnUnknownNameAreErrors) {
  ModelFolder model;
  model.with("bad.jinja", "{% if %}");

  EXPECT_EQ(load_error(model.path(), "").exit_code(), kExitModel);
  EXPECT_EQ(load_error(model.path(), "no-such").exit_code(), kExitUsage);
  EXPECT_NE(std::string(load_error(model.path(), "no-such").what()).find("built in: deepseek-v3.2"), std::string::npos);
  EXPECT_EQ(load_error({}, (model.path() / "bad.jinja").string()).exit_code(), kExitUsage);
  EXPECT_EQ(load_error(model.with("chat_template.jinja", "{% if %}").path(), "").exit_code(), kExitModel);
}

TEST(ChatTemplate, ThreadsRenderAtOnceAndMayDropTheTemplate) {
  ModelFolder model;
  model.with("chat_template.jinja", "{{ messages[0] }}");
  std::vector<std::string> rendered(8);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < rendered.size(); ++t)
      threads.emplace_back([&, t] {
        const auto chat = load_chat_template(model.path(), "");
        for (int i = 0; i < 50; ++i) rendered[t] = chat->render(fmt::format("[{}]", t), "", "");
      });
  }

  for (size_t t = 0; t < rendered.size(); ++t) EXPECT_EQ(rendered[t], std::to_string(t));
}

TEST(RenderTemplate, GenerationBlocksPrintTheirBody) {
  EXPECT_EQ(render_template("a{% generation %}{{ x }}{% endgeneration %}c", R"({"x": "b"})"), "abc");
}

// Reference renderings; for errors only those of raise_exception have words that are not Python's.
void check_expectation(const Json& c, const std::function<std::string()>& render) {
  SCOPED_TRACE(c.at("id").get<std::string>());
  const Json& expect = c.at("expect");
  try {
    const std::string text = render();
    ASSERT_TRUE(expect.contains("text")) << "rendered to: " << text;
    EXPECT_EQ(text, expect["text"].get<std::string>());
  } catch (const TemplateError& error) {
    ASSERT_TRUE(expect.contains("error")) << error.what();
    if (expect["error"]["type"] == "TemplateError") {
      EXPECT_EQ(error.what(), expect["error"]["message"].get<std::string>());
    }
  }
}

class TemplateGoldens : public testing::TestWithParam<const char*> {};

TEST_P(TemplateGoldens, RendersAsTheReference) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const std::string family = GetParam();
  const fs::path folder = shared_folder() / "fixtures/templates";
  const auto chat = load_chat_template({}, (folder / "templates" / (family + ".jinja")).string());
  const auto cases = read_cases("fixtures/templates/" + family + ".jsonl");

  for (const Json& c : cases)
    check_expectation(c, [&] {
      return chat->render(dump_exact(c.at("messages")), dump_exact(c.at("tools")), dump_exact(c.at("kwargs")));
    });

  EXPECT_GT(cases.size(), 50u);
}

INSTANTIATE_TEST_SUITE_P(Families, TemplateGoldens, testing::Values("qwen3.5", "qwen3-coder-next", "kimi-k2-thinking"),
                         [](const auto& family) {
                           std::string name = family.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

TEST(RenderTemplate, HasTheFeaturesOfTheReferencesEnvironment) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const auto cases = read_cases("fixtures/templates/jinja-features.jsonl");

  for (const Json& c : cases)
    check_expectation(
        c, [&] { return render_template(c.at("template").get<std::string>(), dump_exact(c.at("context"))); });

  EXPECT_GT(cases.size(), 50u);
}

}  // namespace
}  // namespace kt
