#include "runtime/text/tokens/tiktoken.h"

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/text/json/json_exact.h"
#include "runtime/text/json/json_field.h"
#include "runtime/text/tokens/added_tokens.h"
#include "runtime/text/tokens/bpe.h"
#include "runtime/text/tokens/regex.h"
#include "runtime/text/tokens/tiktoken_ranks.h"
#include "runtime/text/tokens/vocabulary.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// tokenization_kimi.py, pat_str. One of the alternatives matches at every character.
constexpr std::string_view kKimiPattern =
    R"([\p{Han}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The same file: ids that follow the ranks and are special tokens, named or not; and how long texts are cut before
// they are encoded, in code points, so that no piece is too long.
constexpr int32_t kSpecialTokens = 256 + 2;
constexpr size_t kSliceLength = 400000;
constexpr size_t kRunLength = 25000;  // of white space, or of anything else

struct SpecialToken {
  std::string content;
  bool special = false;  // dropped by skip_special_tokens; unnamed ones are not
};

// Not with simdjson, which does not read the 1e30 that model_max_length usually is, written as an integer.
Json read_config(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(kExitModel, "{}: cannot be read; it names the special tokens of tiktoken.model", file.string());
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  try {
    if (Json config = parse_exact(text); config.is_object()) return config;
  } catch (const std::runtime_error& error) {
    fail(kExitModel, "{}: {}", file.string(), error.what());
  }
  fail(kExitModel, "{}: not a JSON object", file.string());
}

void check_class(const Json& config, const std::string& file) {
  const auto name = config.find("tokenizer_class");
  if (name != config.end() && *name != "TikTokenTokenizer")
    fail(kExitModel,
         "{}: tokenizer_class: expected TikTokenTokenizer, found {}: how others split text is not known; give a folder "
         "with a tokenizer.json with --tokenizer-path",
         file, name->dump());
}

SpecialToken read_special_token(const std::string& key, const Json& entry, const std::string& where) {
  const auto content = entry.is_object() ? entry.find("content") : entry.end();
  if (!entry.is_object() || content == entry.end() || !content->is_string() || content->get<std::string>().empty())
    fail(kExitModel, "{}.{}: an object with a content is expected, found {}", where, key, entry.dump());
  SpecialToken token{content->get<std::string>()};
  if (const auto special = entry.find("special"); special != entry.end()) {
    if (!special->is_boolean())
      fail(kExitModel, "{}.{}.special: true or false is expected, found {}", where, key, special->dump());
    token.special = special->get<bool>();
  }
  return token;
}

// added_tokens_decoder: the id as a string -> {"content", "special", and flags that this tokenizer does not use}.
std::map<int32_t, SpecialToken> read_special_tokens(const Json& config, const std::string& file, int32_t first) {
  std::map<int32_t, SpecialToken> tokens;
  for (int32_t id = first; id < first + kSpecialTokens; ++id)
    tokens[id] = {fmt::format("<|reserved_token_{}|>", id), false};
  const std::string where = file + ": added_tokens_decoder";
  const auto decoder = config.find("added_tokens_decoder");
  if (decoder == config.end() || !decoder->is_object())
    fail(kExitModel, "{}: an object is expected, it names the special tokens", where);
  for (const auto& [key, entry] : decoder->items()) {
    int32_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || !tokens.contains(id))
      fail(kExitModel, "{}.{}: special tokens of tiktoken.model have the ids {} to {}", where, key, first,
           first + kSpecialTokens - 1);
    tokens[id] = read_special_token(key, entry, where);
  }
  return tokens;
}

// tiktoken merges the neighbours whose bytes together are the token of the lowest rank, whatever the two are: each way
// to cut a token in two tokens is a merge of the token's rank.
std::vector<Bpe::Merge> merges_of(const std::vector<std::string>& tokens, const StringMap<int32_t>& ids) {
  std::vector<Bpe::Merge> merges;
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string_view token = tokens[rank];
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ids.find(token.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(token.substr(cut));
      if (right == ids.end()) continue;
      merges.push_back({static_cast<uint32_t>(rank), left->second, right->second, static_cast<int32_t>(rank)});
    }
  }
  return merges;
}

Bpe make_bpe(const std::vector<std::string>& tokens) {
  StringMap<int32_t> ids;
  ids.reserve(tokens.size());
  std::array<int32_t, 256> bytes{};
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    ids.emplace(tokens[rank], static_cast<int32_t>(rank));
    if (tokens[rank].size() == 1) bytes[static_cast<uint8_t>(tokens[rank][0])] = static_cast<int32_t>(rank);
  }
  const std::vector<Bpe::Merge> merges = merges_of(tokens, ids);
  return Bpe(bytes, merges, std::move(ids));
}

// Python's str.isspace.
bool is_space(UChar32 c) { return u_isUWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

// Cuts a text (valid UTF-8) at each kSliceLength characters, and inside of these slices before each run of white space,
// or of anything else, that has grown to kRunLength characters.
std::vector<std::string_view> slices(std::string_view text) {
  std::vector<std::string_view> out;
  size_t begin = 0, length = 0, run = 0;  // bytes; characters since the last slice; characters of the run
  bool run_is_space = false;
  for (int32_t at = 0; static_cast<size_t>(at) < text.size();) {
    const size_t here = static_cast<size_t>(at);
    UChar32 c = 0;
    U8_NEXT_UNSAFE(text.data(), at, c);
    const bool space = is_space(c);
    run = space == run_is_space ? run + 1 : 1;
    run_is_space = space;
    const bool new_slice = length == kSliceLength;
    if (new_slice || run > kRunLength) {
      out.push_back(text.substr(begin, here - begin));
      begin = here;
      run = 1;
      if (new_slice) length = 0;
    }
    ++length;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

class TiktokenTokenizer : public VocabularyTokenizer {
 public:
  TiktokenTokenizer(const std::vector<std::string>& tokens, const std::map<int32_t, SpecialToken>& special_tokens,
                    const std::string& where)
      : pattern_(kKimiPattern), bpe_(make_bpe(tokens)) {
    for (size_t rank = 0; rank < tokens.size(); ++rank) vocabulary_.set(static_cast<int32_t>(rank), tokens[rank]);
    std::vector<AddedToken> added;
    for (const auto& [id, token] : special_tokens) {
      if (!vocabulary_.added.try_emplace(token.content, id).second)
        fail(kExitModel, "{}: two special tokens are \"{}\"", where, token.content);
      vocabulary_.set(id, token.content);
      vocabulary_.special[static_cast<size_t>(id)] = token.special;
      added.push_back({.content = token.content, .id = id, .special = true});  // as text, none is recognised
    }
    special_tokens_ = AddedTokens(std::move(added));
  }

 private:
  std::vector<int32_t> encode_valid(std::string_view text, EncodeOptions options) const override {
    std::vector<int32_t> ids;
    Regex::Scratch scratch = Regex::scratch();
    const auto encode_plain = [&](std::string_view plain) {
      for (size_t from = 0; from < plain.size();) {
        const auto match = pattern_.find(plain, from, scratch);
        if (!match) break;
        bpe_.encode(plain.substr(match->begin, match->end - match->begin), ids);
        from = match->end;
      }
    };
    for (const std::string_view slice : slices(text))
      special_tokens_.split(slice, options.special_as_text, encode_plain, [&](int32_t id) { ids.push_back(id); });
    return ids;
  }

  Regex pattern_;
  Bpe bpe_;
  AddedTokens special_tokens_{{}};
};

}  // namespace

std::unique_ptr<Tokenizer> load_tiktoken(const std::filesystem::path& folder) {
  const std::filesystem::path config_file = folder / "tokenizer_config.json";
  const Json config = read_config(config_file);
  check_class(config, config_file.string());
  const std::vector<std::string> tokens = read_tiktoken_ranks(folder / "tiktoken.model");
  const int32_t first_special = static_cast<int32_t>(tokens.size());
  return std::make_unique<TiktokenTokenizer>(tokens, read_special_tokens(config, config_file.string(), first_special),
                                             config_file.string());
}

}  // namespace kt
