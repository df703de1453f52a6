// Encodings and decodings made with the reference implementations, for the vocabularies of the real models.

#include <gtest/gtest.h>

#include <cctype>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "runtime/text/tokens/tokenizer.h"
#include "tests/text/shared_folder.h"

namespace kt {
namespace {

using Ids = std::vector<int32_t>;

std::vector<nlohmann::ordered_json> cases_of(const std::string& vocabulary) {
  return read_cases("fixtures/tokenizer/" + vocabulary + ".jsonl");
}

std::unique_ptr<Tokenizer> load(const std::string& vocabulary) {
  return load_tokenizer(shared_folder() / "fixtures/tokenizer/vocab" / vocabulary);
}

void check_case(const Tokenizer& tokenizer, const nlohmann::ordered_json& c) {
  SCOPED_TRACE(c.at("id").get<std::string>());
  const Ids ids = c.at("ids");
  if (c.contains("text")) {
    const std::string text = c["text"];
    EXPECT_EQ(tokenizer.encode(text), ids);
    const Ids as_text = c.value("ids_special_as_text", ids);
    EXPECT_EQ(tokenizer.encode(text, {.special_as_text = true}), as_text);
  }
  EXPECT_EQ(decode(tokenizer, ids, false), c.at("decoded").get<std::string>());
  if (c.contains("decoded_skip_special")) {
    EXPECT_EQ(decode(tokenizer, ids, true), c["decoded_skip_special"].get<std::string>());
  }
  if (c.contains("stream")) {
    EXPECT_EQ(decode_stream(tokenizer, ids), c["stream"].get<std::vector<std::string>>());
  }
}

class TokenizerGoldens : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGoldens, EncodesAndDecodesAsTheReference) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const auto tokenizer = load(GetParam());
  const auto cases = cases_of(GetParam());

  int checked = 0;
  for (const auto& c : cases) {
    if (c.contains("note")) continue;  // the reference's normalisation tables are older than Unicode's
    check_case(*tokenizer, c);
    ++checked;
  }

  EXPECT_GT(checked, 300);
}

TEST_P(TokenizerGoldens, ThreadsEncodeAtOnce) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const auto tokenizer = load(GetParam());
  std::vector<std::string> texts;
  std::vector<Ids> expected;
  for (const auto& c : cases_of(GetParam()))
    if (c.contains("text") && !c.contains("note")) {
      texts.push_back(c["text"]);
      expected.push_back(c["ids"]);
    }

  std::vector<int> wrong(4);
  {
    std::vector<std::jthread> threads;
    for (size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        for (size_t i = 0; i < texts.size(); ++i) {
          const size_t at = (i + t * texts.size() / wrong.size()) % texts.size();
          wrong[t] += tokenizer->encode(texts[at]) != expected[at];
        }
      });
  }

  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, TokenizerGoldens,
                         testing::Values("qwen3.5", "qwen3-coder-next", "deepseek-v4", "deepseek-v3.2",
                                         "kimi-k2-synthetic"),
                         [](const auto& vocabulary) {
                           std::string name = vocabulary.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

}  // namespace
}  // namespace kt
