#include "runtime/text/tokens/tokenizer.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/text/tokens/byte_alphabet.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Ids = std::vector<int32_t>;

// Tokens 0 to 255 are the bytes; each merge adds one token.
Json byte_level_file(const std::vector<std::pair<std::string, std::string>>& merges) {
  const ByteAlphabet alphabet;
  Json vocab = Json::object(), merge_list = Json::array();
  for (int byte = 0; byte < 256; ++byte) vocab[alphabet.character(static_cast<uint8_t>(byte))] = byte;
  for (const auto& [left, right] : merges) {
    if (!vocab.contains(left + right)) vocab[left + right] = vocab.size();
    merge_list.push_back(left + " " + right);
  }
  const Json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return {{"version", "1.0"},
          {"added_tokens", Json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merge_list}}}};
}

Json split(const std::string& pattern, const std::string& behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

Json sequence(std::vector<Json> steps, Json byte_level) {
  steps.push_back(std::move(byte_level));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json added(const std::string& content, int id, bool special, Json flags = Json::object()) {
  Json token = {{"id", id}, {"content", content}, {"normalized", false}, {"special", special}};
  token.update(flags);
  return token;
}

std::unique_ptr<Tokenizer> load_text(const std::string& text) {
  const TempFolder folder;
  folder.write("tokenizer.json", text);
  return load_tokenizer(folder.path());
}

std::unique_ptr<Tokenizer> load(const Json& file) { return load_text(file.dump()); }

std::string error_of(const std::string& text) {
  return refusal_of([&] { load_text(text); }, kExitModel);
}

std::string error_after(const std::function<void(Json& file)>& change) {
  Json file = byte_level_file({{"a", "b"}});
  change(file);
  return error_of(file.dump());
}

// The pieces that a pre-tokenizer makes, with "|" between them: in this vocabulary every run of x and space merges into
// one token within a piece, so that the tokens show the cuts.
std::string cuts(const Json& pre_tokenizer, const std::string& text) {
  Json file = byte_level_file({{"x", "x"},
                               {"xx", "x"},
                               {"xxx", "x"},
                               {"Ġ", "x"},
                               {"Ġ", "xx"},
                               {"Ġx", "x"},
                               {"x", "Ġ"},
                               {"xx", "Ġ"},
                               {"Ġ", "Ġ"},
                               {"1", "1"}});
  file["pre_tokenizer"] = pre_tokenizer;
  const auto tokenizer = load(file);
  std::string shown;
  for (const int32_t id : tokenizer->encode(text)) shown.append(shown.empty() ? "" : "|").append(tokenizer->bytes(id));
  return shown;
}

TEST(Tokenizer, MergesTheLowestRankFirstAndTheLeftmostOnATie) {
  const auto tokenizer = load(byte_level_file({{"b", "c"}, {"a", "b"}, {"a", "bc"}, {"d", "d"}}));

  EXPECT_EQ(tokenizer->encode("ab"), Ids({257}));
  EXPECT_EQ(tokenizer->encode("abc"), Ids({258}));
  EXPECT_EQ(tokenizer->encode("ddd"), Ids({259, 'd'}));
  EXPECT_EQ(tokenizer->encode("abcab"), Ids({258, 257}));
  EXPECT_EQ(tokenizer->encode(""), Ids());
  EXPECT_EQ(tokenizer->size(), 260);
}

TEST(Tokenizer, MergesLongPiecesWithoutSquareCost) {
  const auto tokenizer = load(byte_level_file({{"a", "a"}, {"aa", "aa"}}));

  EXPECT_EQ(tokenizer->encode(std::string(4'000'001, 'a')).size(), 1'000'001u);
}

TEST(Tokenizer, TakesMergesAsListsToo) {
  Json file = byte_level_file({{"a", "b"}});
  file["model"]["merges"] = Json::array({Json::array({"a", "b"})});

  EXPECT_EQ(load(file)->encode("ab"), Ids({256}));
}

TEST(Tokenizer, IgnoreMergesLooksForTheWholePieceFirst) {
  Json file = byte_level_file({{"a", "b"}});
  file["model"]["vocab"]["abc"] = 300;
  EXPECT_EQ(load(file)->encode("abc"), Ids({256, 'c'}));

  file["model"]["ignore_merges"] = true;

  EXPECT_EQ(load(file)->encode("abc"), Ids({300}));
  EXPECT_EQ(load(file)->encode("abd"), Ids({256, 'd'}));
}

TEST(Tokenizer, CutsAsEachBehaviorSays) {
  const Json byte_level = byte_level_file({})["pre_tokenizer"];
  const auto cut = [&](const std::string& behavior, bool invert) {
    return cuts(sequence({split(" ", behavior, invert)}, byte_level), "xx  xx");
  };

  EXPECT_EQ(cut("Isolated", false), "xx| | |xx");
  EXPECT_EQ(cut("Removed", false), "xx|xx");
  EXPECT_EQ(cut("Removed", true), " | ");
  EXPECT_EQ(cut("MergedWithPrevious", false), "xx | |xx");
  EXPECT_EQ(cut("MergedWithNext", false), "xx| | xx");
  EXPECT_EQ(cut("Contiguous", false), "xx|  |xx");
}

TEST(Tokenizer, CutsDigitsAndAddsThePrefixSpace) {
  Json byte_level = byte_level_file({})["pre_tokenizer"];
  const Json single = {{"type", "Digits"}, {"individual_digits", true}};
  const Json together = {{"type", "Digits"}, {"individual_digits", false}};

  EXPECT_EQ(cuts(sequence({single}, byte_level), "xx11"), "xx|1|1");
  EXPECT_EQ(cuts(sequence({together}, byte_level), "xx11"), "xx|11");

  byte_level["use_regex"] = true;
  EXPECT_EQ(cuts(byte_level, "xx  xx!"), "xx| | xx|!");
  byte_level["add_prefix_space"] = true;
  EXPECT_EQ(cuts(byte_level, "xx xx"), " xx| xx");
}

TEST(Tokenizer, NormalisesBetweenAddedTokensOnly) {
  Json file = byte_level_file({});
  file["normalizer"] = {{"type", "NFC"}};
  file["added_tokens"] = {added("<s>", 300, true)};
  const auto tokenizer = load(file);

  EXPECT_EQ(tokenizer->encode("e\u0301"), Ids({0xC3, 0xA9}));
  EXPECT_EQ(tokenizer->encode("e<s>\u0301"), Ids({'e', 300, 0xCC, 0x81}));
}

TEST(Tokenizer, FindsTheLongestAddedToken) {
  Json file = byte_level_file({{"a", "b"}});
  file["added_tokens"] = {added("<a", 300, false), added("<a>", 301, true), added("<a><b>", 302, false),
                          added("a", 'a', false)};
  const auto tokenizer = load(file);

  EXPECT_EQ(tokenizer->encode("<a>"), Ids({301}));
  EXPECT_EQ(tokenizer->encode("<a><b>"), Ids({302}));
  EXPECT_EQ(tokenizer->encode("<a><c>"), Ids({301, '<', 'c', '>'}));
  EXPECT_EQ(tokenizer->encode("<ab"), Ids({300, 'b'}));
  EXPECT_EQ(tokenizer->encode("ab"), Ids({'a', 'b'}));
  EXPECT_EQ(tokenizer->encode("<a>", {.special_as_text = true}), Ids({'<', 'a', '>'}));
  EXPECT_EQ(tokenizer->encode("<a><b>", {.special_as_text = true}), Ids({302}));
  EXPECT_EQ(tokenizer->find("<a>"), 301);
  EXPECT_EQ(tokenizer->find("<c>"), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(301));
  EXPECT_FALSE(tokenizer->is_special(300));
  EXPECT_EQ(tokenizer->size(), 303);
}

TEST(Tokenizer, HonoursTheFlagsOfAddedTokens) {
  Json file = byte_level_file({});
  file["added_tokens"] = {added("[l]", 300, false, {{"lstrip", true}}), added("[r]", 301, false, {{"rstrip", true}}),
                          added("word", 302, false, {{"single_word", true}})};
  const auto tokenizer = load(file);

  EXPECT_EQ(tokenizer->encode("x \u00a0[l] x"), Ids({'x', 300, ' ', 'x'}));
  EXPECT_EQ(tokenizer->encode("x [r] \n"), Ids({'x', ' ', 301}));
  EXPECT_EQ(tokenizer->encode("[r] [l]"), Ids({301, 300}));
  EXPECT_EQ(tokenizer->encode("word-word"), Ids({302, '-', 302}));
  EXPECT_EQ(tokenizer->encode("words"), Ids({'w', 'o', 'r', 'd', 's'}));
}

TEST(Tokenizer, TextThatIsNotUtf8IsEncodedWithReplacementCharacters) {
  const auto tokenizer = load(byte_level_file({}));

  EXPECT_EQ(tokenizer->encode("a\xff"), Ids({'a', 0xEF, 0xBF, 0xBD}));
  EXPECT_EQ(tokenizer->encode("a\xE4\xB8"), Ids({'a', 0xEF, 0xBF, 0xBD}));
}

TEST(Tokenizer, AddsTheTokensAroundATextThatHuggingFaceAdds) {
  const Json bos_template = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"pair", Json::array()},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {256}}, {"tokens", {"<s>"}}}}}}};
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}};
  const auto around_a = [](const Json& processor, const std::string& config) {
    Json file = byte_level_file({});
    file["added_tokens"] = {added("<s>", 256, true), added("</s>", 257, true)};
    file["post_processor"] = processor;
    const TempFolder folder;
    folder.write("tokenizer.json", file.dump());
    if (!config.empty()) folder.write("tokenizer_config.json", config);
    const auto tokenizer = load_tokenizer(folder.path());
    EXPECT_EQ(tokenizer->encode("a"), Ids({'a'})) << "only where asked for";
    return tokenizer->encode("a", {.add_special_tokens = true});
  };
  const Json pair = {{"cls", {"<s>", 256}}, {"sep", {"</s>", 257}}};
  Json bert = {{"type", "BertProcessing"}}, roberta = {{"type", "RobertaProcessing"}, {"trim_offsets", true}};
  bert.update(pair);
  roberta.update(pair);

  EXPECT_EQ(around_a(nullptr, ""), Ids({'a'}));
  EXPECT_EQ(around_a(byte_level, "{}"), Ids({'a'}));
  EXPECT_EQ(around_a(bos_template, ""), Ids({256, 'a'}));
  EXPECT_EQ(around_a({{"type", "Sequence"}, {"processors", {byte_level, bos_template}}}, ""), Ids({256, 'a'}));
  EXPECT_EQ(around_a(bert, ""), Ids({256, 'a', 257}));
  EXPECT_EQ(around_a(roberta, ""), Ids({256, 'a', 257}));
  const std::string names = R"("bos_token": "<s>", "eos_token": {"content": "</s>"}, )";
  EXPECT_EQ(around_a(byte_level, "{" + names + R"("add_bos_token": true})"), Ids({256, 'a'}));
  EXPECT_EQ(around_a(byte_level, "{" + names + R"("add_bos_token": false, "add_eos_token": true})"), Ids({'a', 257}));
  EXPECT_EQ(around_a(bos_template, "{" + names + R"("add_bos_token": true})"), Ids({256, 'a'})) << "not twice";
  EXPECT_NE(refusal_of([&] { around_a(nullptr, R"({"add_bos_token": true, "bos_token": "<x>"})"); }, kExitModel)
                .find("bos_token"),
            std::string::npos);
  EXPECT_NE(refusal_of(
                [&] {
                  around_a({{"type", "Other"}}, "");
                },
                kExitModel)
                .find("post_processor.type"),
            std::string::npos);
}

TEST(Tokenizer, UnknownIdsHaveNoBytes) {
  const auto tokenizer = load(byte_level_file({}));

  EXPECT_EQ(tokenizer->bytes(-1), "");
  EXPECT_EQ(tokenizer->bytes(256), "");
  EXPECT_EQ(tokenizer->bytes(1 << 30), "");
  EXPECT_FALSE(tokenizer->is_special(-1));
  EXPECT_EQ(decode(*tokenizer, Ids({'a', 70000, -5, 'b'}), true), "ab");
}

TEST(Tokenizer, DropsBytesThatTheVocabularyLacks) {
  Json file = byte_level_file({{"a", "b"}});
  file["model"]["vocab"].erase("x");

  EXPECT_EQ(load(file)->encode("axb"), Ids({256}));
}

TEST(Tokenizer, ThreadsShareItsCache) {
  const auto tokenizer = load(byte_level_file({{"a", "b"}, {"ab", "ab"}, {"c", "ab"}}));
  const Ids expected = tokenizer->encode("abababcabab");
  std::vector<int> wrong(8);
  {
    std::vector<std::jthread> threads;
    for (int& count : wrong)
      threads.emplace_back([&] {
        for (int i = 0; i < 3000; ++i) {
          tokenizer->encode(std::to_string(i));  // enough pieces to empty shards under the others' feet
          count += tokenizer->encode("abababcabab") != expected;
        }
      });
  }

  EXPECT_EQ(wrong, std::vector<int>(8, 0));
}

TEST(Tokenizer, NamesTheFieldThatItDoesNotUnderstand) {
  const auto expect_named = [](const std::string& field, const std::function<void(Json&)>& change) {
    const std::string message = error_after(change);
    EXPECT_NE(message.find("tokenizer.json: " + field), std::string::npos) << message;
  };

  expect_named("surprise", [](Json& f) { f["surprise"] = 1; });
  expect_named("normalizer.type: \"NFKC\"", [](Json& f) { f["normalizer"] = {{"type", "NFKC"}}; });
  expect_named("decoder.type", [](Json& f) { f["decoder"] = {{"type", "Metaspace"}}; });
  expect_named("decoder", [](Json& f) { f["decoder"] = nullptr; });
  expect_named("pre_tokenizer", [](Json& f) { f.erase("pre_tokenizer"); });
  expect_named("pre_tokenizer.type: \"Metaspace\"", [](Json& f) { f["pre_tokenizer"]["type"] = "Metaspace"; });
  expect_named("pre_tokenizer.use_regex: 3", [](Json& f) { f["pre_tokenizer"]["use_regex"] = 3; });
  expect_named("pre_tokenizer", [](Json& f) { f["pre_tokenizer"] = split("a", "Isolated"); });
  expect_named("pre_tokenizer.behavior", [](Json& f) { f["pre_tokenizer"] = split("a", "Somehow"); });
  expect_named("pre_tokenizer.pattern", [](Json& f) { f["pre_tokenizer"] = split("(", "Isolated"); });
  expect_named("pre_tokenizer.pattern", [](Json& f) { f["pre_tokenizer"] = split("\\w+", "Isolated"); });
  expect_named("model.type: \"Unigram\"", [](Json& f) { f["model"]["type"] = "Unigram"; });
  expect_named("model.dropout: 0.1", [](Json& f) { f["model"]["dropout"] = 0.1; });
  expect_named("model.byte_fallback", [](Json& f) { f["model"]["byte_fallback"] = true; });
  expect_named("model.end_of_word_suffix", [](Json& f) { f["model"]["end_of_word_suffix"] = "</w>"; });
  expect_named("model.surprise", [](Json& f) { f["model"]["surprise"] = true; });
  expect_named("model.vocab", [](Json& f) { f["model"].erase("vocab"); });
  expect_named("model.vocab", [](Json& f) { f["model"]["vocab"] = Json::array(); });
  expect_named("model.vocab[\"ab\"]: -1", [](Json& f) { f["model"]["vocab"]["ab"] = -1; });
  expect_named("model.vocab[\"ab\"]: 4000000000", [](Json& f) { f["model"]["vocab"]["ab"] = 4000000000; });
  expect_named("model.vocab[\"ab\"]: \"1\"", [](Json& f) { f["model"]["vocab"]["ab"] = "1"; });
  expect_named("model.vocab: token \"ab\"", [](Json& f) { f["model"]["vocab"]["ab"] = 7; });
  expect_named("model.merges[0]", [](Json& f) { f["model"]["merges"] = {"ab"}; });
  expect_named("model.merges[0]", [](Json& f) { f["model"]["merges"] = {"a b c"}; });
  expect_named("model.merges[0]", [](Json& f) { f["model"]["merges"] = {"a c"}; });
  expect_named("model.merges[1]", [](Json& f) { f["model"]["merges"] = {"a b", 3}; });
  expect_named("model.merges[0]", [](Json& f) { f["model"]["merges"] = {{"a", "b", "c"}}; });
  expect_named("model.merges", [](Json& f) { f["model"]["merges"] = "a b"; });
  expect_named("added_tokens[0].content", [](Json& f) { f["added_tokens"] = {added("", 300, true)}; });
  expect_named("added_tokens[0].id", [](Json& f) { f["added_tokens"] = {added("<s>", -3, true)}; });
  expect_named("added_tokens[0]", [](Json& f) { f["added_tokens"] = {added("<s>", 'a', true)}; });
  expect_named("added_tokens[0].surprise", [](Json& f) {
    f["added_tokens"] = {added("<s>", 300, true, {{"surprise", 1}})};
  });
  expect_named("added_tokens", [](Json& f) { f["added_tokens"] = 3; });
}

TEST(Tokenizer, RefusesFilesThatAreNoJsonObject) {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"model\": {}", "\xff"}) EXPECT_NE(error_of(text), "accepted");
}

TEST(Tokenizer, NoPrefixOfAFileIsTakenForAWholeOne) {
  const std::string text = byte_level_file({{"a", "b"}}).dump();

  for (size_t length = 0; length < text.size(); length += 37)
    EXPECT_NE(error_of(text.substr(0, length)), "accepted") << length;
}

TEST(Tokenizer, SaysWhatAFolderWithoutVocabularyLacks) {
  const TempFolder folder;
  const auto message = [&] {
    try {
      load_tokenizer(folder.path());
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };

  EXPECT_NE(message().find("neither tokenizer.json nor tiktoken.model"), std::string::npos);
  EXPECT_THROW(load_tokenizer(folder.path() / "absent"), Error);
}

}  // namespace
}  // namespace kt
