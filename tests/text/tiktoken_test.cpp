#include "runtime/text/tokens/tiktoken.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"
#include "tests/text/shared_folder.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

std::string base64(const std::string& bytes) {
  const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? digits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// Ranks 0 to 255 are the bytes; `tokens` follow.
std::string ranks_file(const std::vector<std::string>& tokens) {
  std::string text;
  for (int rank = 0; rank < 256; ++rank)
    text += fmt::format("{} {}\n", base64(std::string(1, static_cast<char>(rank))), rank);
  for (size_t i = 0; i < tokens.size(); ++i) text += fmt::format("{} {}\n", base64(tokens[i]), 256 + i);
  return text;
}

const std::string kConfig = R"({"tokenizer_class": "TikTokenTokenizer",
    "model_max_length": 1000000000000000019884624838656, "added_tokens_decoder": {}})";

std::unique_ptr<Tokenizer> load(const std::string& ranks, const std::string& config = kConfig) {
  const TempFolder folder;
  folder.write("tiktoken.model", ranks);
  folder.write("tokenizer_config.json", config);
  return load_tokenizer(folder.path());
}

std::string error_of(const std::string& ranks, const std::string& config = kConfig) {
  return refusal_of([&] { load(ranks, config); }, kExitModel);
}

bool complains(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

TEST(Tiktoken, TakesAWholePieceBeforeItMerges) {
  const auto tokenizer = load(ranks_file({"ab", "bcd", "abcd"}));  // no two tokens merge to abcd

  EXPECT_EQ(tokenizer->encode("abcd"), Ids{258});
  EXPECT_EQ(tokenizer->encode("abcde"), (Ids{256, 'c', 'd', 'e'}));
}

TEST(Tiktoken, MergesNeighboursByTheirBytesWhateverTheyAre) {
  const auto tokenizer = load(ranks_file({"bc", "ab", "cd", "abcd"}));

  EXPECT_EQ(tokenizer->encode("xabcdx"), (Ids{'x', 'a', 256, 'd', 'x'}));  // bc has the lowest rank
  EXPECT_EQ(tokenizer->encode("xab cd"), (Ids{'x', 257, ' ', 258}));
}

TEST(Tiktoken, OfEqualRanksTheLeftmostMergesFirst) {
  // aba can be made of ab+a and a+ba, both of the rank of aba.
  const auto tokenizer = load(ranks_file({"ba", "aba", "ab"}));

  EXPECT_EQ(tokenizer->encode("xabay"), (Ids{'x', 257, 'y'}));
  EXPECT_EQ(tokenizer->encode("xababay"), (Ids{'x', 257, 256, 'y'}));
}

TEST(Tiktoken, KeepsHanApartAndJoinsThreeDigits) {
  const auto tokenizer = load(ranks_file({"a\xE4\xB8\xAD", "12", "123", "34", "1234"}));

  EXPECT_EQ(tokenizer->encode("a\xE4\xB8\xAD"), (Ids{'a', 0xE4, 0xB8, 0xAD}));
  EXPECT_EQ(tokenizer->encode("1234"), (Ids{258, '4'}));
}

TEST(Tiktoken, NamesSpecialTokensFromTheConfigAndReservesTheRest) {
  const auto tokenizer = load(ranks_file({}), R"({"added_tokens_decoder": {
      "256": {"content": "[BOS]", "special": true}, "258": {"content": "<think>", "special": false}}})");

  EXPECT_EQ(tokenizer->size(), 256 + 258);
  EXPECT_EQ(tokenizer->encode("a[BOS]<|reserved_token_257|><think>"), (Ids{'a', 256, 257, 258}));
  EXPECT_EQ(tokenizer->find("<|reserved_token_513|>"), 513);
  EXPECT_EQ(decode(*tokenizer, Ids{256, 257, 258}, true), "<|reserved_token_257|><think>");
  EXPECT_EQ(tokenizer->encode("<think>", {.special_as_text = true}).size(), 7u);  // not even those that are kept
}

TEST(Tiktoken, CutsRunsOf25000CharactersAsTheReference) {
  const auto tokenizer = load(ranks_file({"aa"}));

  const Ids ids = tokenizer->encode("b" + std::string(25001, 'a'));

  ASSERT_EQ(ids.size(), 1u + 12499 + 1 + 1);
  EXPECT_EQ(ids[12500], 'a');  // the run is cut before its 25001st character
  EXPECT_EQ(ids[12501], 256);
}

TEST(Tiktoken, CutsTextsEvery400000CharactersAsTheReference) {
  const auto tokenizer = load(ranks_file({"aa"}));
  std::string text = "\xC3\xA9\xC3\xA9\xC3\xA9";  // three characters, six bytes: characters count
  while (text.size() < 400100) text += "aaaaaaa ";

  const Ids ids = tokenizer->encode(text);

  const Ids whole{256, 256, 256, 'a', ' '}, cut{256, 256, 'a', 256, ' '};
  const size_t words = (text.size() - 6) / 8, cut_word = (400000 - 3) / 8;
  ASSERT_EQ(ids.size(), 6 + words * 5);
  for (size_t word = 0; word < words; ++word) {
    const auto begin = ids.begin() + static_cast<ptrdiff_t>(6 + word * 5);
    EXPECT_EQ(Ids(begin, begin + 5), word == cut_word ? cut : whole) << word;
  }
}

TEST(Tiktoken, BytesThatAreNotUtf8BecomeReplacementCharacters) {
  const auto tokenizer = load(ranks_file({}));

  EXPECT_EQ(tokenizer->encode("a\xFF"), (Ids{'a', 0xEF, 0xBF, 0xBD}));
}

TEST(Tiktoken, MalformedRanksAreErrorsThatNameTheLine) {
  const std::string good = ranks_file({"ab"});

  EXPECT_TRUE(complains(error_of(""), "no token for the byte 0"));
  EXPECT_TRUE(complains(error_of(good + "YWJj\n"), "line 258: expected \"BASE64 RANK\", found \"YWJj\""));
  EXPECT_TRUE(complains(error_of(good + "YWJj \n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWJj 257 \n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWJj -1\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWJj 99999999999\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YW!j 257\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWJ 257\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWM= 257\n"), "accepted"));
  EXPECT_TRUE(complains(error_of(good + "YWN= 257\n"), "line 258"));  // bits after the last byte
  EXPECT_TRUE(complains(error_of(good + "====  257\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + base64(std::string(1025, 'a')) + " 257\n"), "line 258"));
  EXPECT_TRUE(complains(error_of(good + "YWJj 256\n"), "rank 256 occurs twice"));
  EXPECT_TRUE(complains(error_of(good + "YWJj 258\n"), "not rank 257"));
  EXPECT_TRUE(complains(error_of(good + "YWI= 257\n"), "rank 257 repeats another token"));
  EXPECT_EQ(error_of(good + "\r\nYWJj 257\r\n"), "accepted");
}

TEST(Tiktoken, ConfigsThatDoNotFitAreErrorsThatNameTheField) {
  const std::string ranks = ranks_file({});

  EXPECT_TRUE(complains(error_of(ranks, "[]"), "tokenizer_config.json: not a JSON object"));
  EXPECT_TRUE(complains(error_of(ranks, R"({"a": )" + std::string(200'000, '[')), "tokenizer_config.json"));
  EXPECT_TRUE(complains(error_of(ranks, R"({"a": )" + std::string(200'000, '[') + std::string(200'000, ']') + "}"),
                        "tokenizer_config.json"));
  EXPECT_TRUE(complains(error_of(ranks, R"({"tokenizer_class": "Other", "added_tokens_decoder": {}})"),
                        "expected TikTokenTokenizer, found \"Other\""));
  EXPECT_TRUE(complains(error_of(ranks, "{}"), "added_tokens_decoder: an object is expected"));
  for (const char* id : {"255", "514", "x", "-1", "", "99999999999"})
    EXPECT_TRUE(
        complains(error_of(ranks, fmt::format(R"({{"added_tokens_decoder": {{"{}": {{"content": "a"}}}}}})", id)),
                  "have the ids 256 to 513"))
        << id;
  for (const char* entry : {"1", "{}", R"({"content": ""})", R"({"content": 1})", R"({"content": "a", "special": 1})"})
    EXPECT_TRUE(complains(error_of(ranks, fmt::format(R"({{"added_tokens_decoder": {{"256": {}}}}})", entry)),
                          "added_tokens_decoder.256"))
        << entry;
  EXPECT_TRUE(complains(error_of(ranks, R"({"added_tokens_decoder": {"256": {"content": "<|reserved_token_257|>"}}})"),
                        "two special tokens are"));
}

TEST(Tiktoken, EncodesLikeTheTokenizerJsonOfTheSameModel) {
  SKIP_WITHOUT_SHARED_FOLDER();
  const fs::path model = shared_folder() / "fixtures/models/kimi_k2-int4";
  const auto both = load_tokenizer(model);
  const auto tiktoken = load_tiktoken(model);

  for (const char* text : {"Hello, world!", "  naïve café's 12345\n\n", "北京 hello<|im_end|>\tTHE end"})
    EXPECT_EQ(tiktoken->encode(text), both->encode(text)) << text;
}

}  // namespace
}  // namespace kt
