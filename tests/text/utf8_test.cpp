#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/text/tokens/tokenizer.h"

namespace kt {
namespace {

std::vector<std::string> stream(const std::vector<std::string>& pushes) {
  Utf8Stream utf8;
  std::vector<std::string> out;
  for (const std::string& bytes : pushes) out.push_back(utf8.push(bytes));
  out.push_back(utf8.flush());
  return out;
}

using Chunks = std::vector<std::string>;
const std::string kBad = "\uFFFD";

TEST(Utf8Stream, HoldsBackOnlyWhatMayBecomeACharacter) {
  EXPECT_EQ(stream({"a", "\xF0\x9F", "\x98", "\x80z"}), Chunks({"a", "", "", "😀z", ""}));
  EXPECT_EQ(stream({"a\xC3"}), Chunks({"a", kBad}));
  EXPECT_EQ(stream({"\xE4\xB8\xAD\xE4\xB8"}), Chunks({"中", kBad}));
}

TEST(Utf8Stream, ReplacesWhatCannotBecomeACharacterAtOnce) {
  EXPECT_EQ(stream({"\x80", "\xC0", "\xFF"}), Chunks({kBad, kBad, kBad, ""}));
  EXPECT_EQ(stream({"\xE4\xB8", "a"}), Chunks({"", kBad + "a", ""}));  // one for the whole broken start
  EXPECT_EQ(stream({"\xF0\x80"}), Chunks({kBad + kBad, ""}));          // overlong: two broken bytes
  EXPECT_EQ(stream({"\xF4\x90\x80\x80"}), Chunks({kBad + kBad + kBad + kBad, ""}));
}

TEST(Utf8Stream, TreatsSurrogatesAsPythonsIncrementalDecoder) {
  EXPECT_EQ(stream({"\xED", "\xA0", "\x80"}), Chunks({"", "", kBad + kBad + kBad, ""}));
  EXPECT_EQ(stream({"\xED\xA0"}), Chunks({"", kBad + kBad}));
}

TEST(Utf8Stream, AnyCutOfATextGivesTheSameText) {
  const std::string text = "aé中😀\xED\xA0\x80\xF0\x9F\xC3\xA9\xE2\x82z\xF5\xC3";
  Utf8Stream whole;
  std::string expected = whole.push(text);
  expected += whole.flush();

  for (size_t cut = 0; cut <= text.size(); ++cut) {
    const auto chunks = stream({text.substr(0, cut), text.substr(cut)});
    EXPECT_EQ(chunks[0] + chunks[1] + chunks[2], expected) << cut;
  }
}

TEST(Utf8Stream, KeepsAtMostThreeBytes) {
  for (int first = 0; first < 256; ++first)
    for (int second = 0; second < 256; ++second) {
      Utf8Stream utf8;
      const std::string bytes{static_cast<char>(first), static_cast<char>(second), '\x80', '\x80'};

      EXPECT_NE(utf8.push(bytes), "") << first << " " << second;
    }
}

}  // namespace
}  // namespace kt
