#include "runtime/text/tokens/tiktoken_ranks.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string_view>
#include <unordered_set>

#include "runtime/base/error.h"
#include "runtime/text/json/json_field.h"

namespace kt {
namespace {

constexpr std::string_view kBase64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<int8_t, 256> kValueOfDigit = [] {
  std::array<int8_t, 256> values{};
  values.fill(-1);
  for (size_t i = 0; i < kBase64Digits.size(); ++i)
    values[static_cast<uint8_t>(kBase64Digits[i])] = static_cast<int8_t>(i);
  return values;
}();

// RFC 4648, section 4, with padding. Bits of the last digit that stand for no byte must be 0.
std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  if (text.ends_with('=')) text.remove_suffix(text.ends_with("==") ? 2 : 1);
  std::string bytes;
  uint32_t bits = 0;
  int count = 0;  // of bits that wait
  for (const char c : text) {
    const int8_t value = kValueOfDigit[static_cast<uint8_t>(c)];
    if (value < 0) return std::nullopt;
    bits = (bits << 6 | static_cast<uint32_t>(value)) & 0xFFF;
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count);
  }
  if (bits & ((1u << count) - 1)) return std::nullopt;
  return bytes;
}

constexpr size_t kMaxTokenBytes = 1 << 10;  // the work on a token grows with the square of its length

struct Entry {
  std::string token;
  int32_t rank;
};

std::optional<Entry> read_entry(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == line.npos) return std::nullopt;
  std::optional<std::string> token = from_base64(line.substr(0, space));
  int32_t rank = 0;
  const std::string_view digits = line.substr(space + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
  if (!token || error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  if (token->size() > kMaxTokenBytes || rank < 0 || rank >= kMaxTokenId) return std::nullopt;
  return Entry{std::move(*token), rank};
}

void check_tokens(const std::vector<std::string>& tokens, const std::string& file) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(tokens.size());
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    if (tokens[rank].empty()) fail(kExitModel, "{}: there are {} ranks, but not rank {}", file, tokens.size(), rank);
    if (!seen.insert(tokens[rank]).second) fail(kExitModel, "{}: rank {} repeats another token", file, rank);
  }
  for (int byte = 0; byte < 256; ++byte)
    if (!seen.contains(std::string(1, static_cast<char>(byte))))
      fail(kExitModel, "{}: no token for the byte {}; text could not be encoded", file, byte);
}

}  // namespace

std::vector<std::string> read_tiktoken_ranks(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(kExitModel, "{}: cannot be read", file.string());
  std::vector<std::string> tokens;
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    std::optional<Entry> entry = read_entry(line);
    if (!entry)
      fail(kExitModel, "{}: line {}: expected \"BASE64 RANK\", found \"{:.80}\"", file.string(), number, line);
    const size_t rank = static_cast<size_t>(entry->rank);
    if (rank >= tokens.size()) tokens.resize(rank + 1);
    if (!tokens[rank].empty()) fail(kExitModel, "{}: line {}: rank {} occurs twice", file.string(), number, rank);
    tokens[rank] = std::move(entry->token);
  }
  check_tokens(tokens, file.string());
  return tokens;
}

}  // namespace kt
