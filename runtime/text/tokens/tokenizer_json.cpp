#include "runtime/text/tokens/tokenizer_json.h"

#include <simdjson.h>
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/text/json/json_field.h"
#include "runtime/text/tokens/added_tokens.h"
#include "runtime/text/tokens/bpe.h"
#include "runtime/text/tokens/byte_alphabet.h"
#include "runtime/text/tokens/pretokenizer.h"
#include "runtime/text/tokens/vocabulary.h"

namespace kt {
namespace {

using TokenIds = std::unordered_map<std::string_view, int32_t>;  // by the text in the file

TokenIds read_vocab(const JsonField& vocab, const ByteAlphabet& alphabet, Vocabulary& vocabulary) {
  simdjson::dom::object entries;
  if (vocab.value().get(entries)) vocab.refuse("an object is expected");
  TokenIds ids;
  ids.reserve(entries.size());
  std::vector<bool> taken;
  for (const auto& [text, value] : entries) {
    int64_t id = 0;
    if (value.get(id) || id < 0 || id >= kMaxTokenId)
      JsonField(value, fmt::format("{}[\"{}\"]", vocab.where(), text)).token_id();
    if (static_cast<size_t>(id) >= taken.size()) taken.resize(static_cast<size_t>(id) + 1);
    if (taken[static_cast<size_t>(id)] || !ids.try_emplace(text, static_cast<int32_t>(id)).second)
      fail(kExitModel, "{}: token \"{}\" or its id {} occurs twice", vocab.where(), text, id);
    taken[static_cast<size_t>(id)] = true;
    // A token outside the alphabet is no product of merging; it can only stand for its own text.
    vocabulary.set(static_cast<int32_t>(id), alphabet.bytes(text).value_or(std::string(text)));
  }
  return ids;
}

// A merge is written "left right" or ["left", "right"].
std::pair<std::string_view, std::string_view> merge_parts(const simdjson::dom::element& merge) {
  std::string_view text;
  if (!merge.get(text)) {
    const size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) return {};
    return {text.substr(0, space), text.substr(space + 1)};
  }
  simdjson::dom::array pair;
  std::string_view left, right;
  if (merge.get(pair) || pair.size() != 2 || pair.at(0).get(left) || pair.at(1).get(right)) return {};
  return {left, right};
}

std::vector<Bpe::Merge> read_merges(const JsonField& field, const TokenIds& ids) {
  simdjson::dom::array entries;
  if (field.value().get(entries)) field.refuse("a list is expected");
  std::vector<Bpe::Merge> merges;
  merges.reserve(entries.size());
  std::string joined;
  for (const simdjson::dom::element entry : entries) {
    const auto [left, right] = merge_parts(entry);
    const JsonField here(entry, fmt::format("{}[{}]", field.where(), merges.size()));
    if (left.empty() || right.empty()) here.refuse("\"left right\" or [\"left\", \"right\"] is expected");
    joined.assign(left).append(right);
    const auto left_id = ids.find(left), right_id = ids.find(right), merged_id = ids.find(joined);
    if (left_id == ids.end() || right_id == ids.end() || merged_id == ids.end())
      here.refuse("both parts and what they make must be in the vocabulary");
    merges.push_back({static_cast<uint32_t>(merges.size()), left_id->second, right_id->second, merged_id->second});
  }
  return merges;
}

// Only what byte-level models use; a switch that would change the encoding and is not known here is refused.
void check_model(const JsonField& model) {
  model.only_keys({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                   "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const auto type = model.find("type"); type && type->text() != "BPE") type->refuse("only BPE models are read");
  if (const auto dropout = model.find("dropout")) {
    double share = 1;
    if (dropout->value().get(share) || share != 0) dropout->refuse("encoding must not be random");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const auto field = model.find(affix); field && !field->text().empty())
      field->refuse("byte-level models have none");
  if (const auto field = model.find("byte_fallback"); field && field->flag())
    field->refuse("byte-level models have no byte fallback");
}

// Some vocabularies were trained without ever seeing certain bytes (SmolLM2: 21, among them those that begin characters
// above U+3FFFF). The reference drops such bytes from the encoding, and so does ktmpi, but not without a word.
std::array<int32_t, 256> byte_tokens(const JsonField& model, const ByteAlphabet& alphabet, const TokenIds& ids) {
  std::array<int32_t, 256> tokens;
  int missing = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const auto entry = ids.find(alphabet.character(static_cast<uint8_t>(byte)));
    tokens[static_cast<size_t>(byte)] = entry == ids.end() ? Bpe::kNoToken : entry->second;
    missing += entry == ids.end();
  }
  if (missing == 0) return tokens;
  if (missing == 256) model.at("vocab").refuse("no token stands for a single byte: not a byte-level vocabulary");
  if (const auto unknown = model.find("unk_token")) unknown->refuse("vocabularies that lack bytes must not have one");
  log_warning(
      "{}.vocab: no token for {} of 256 bytes; text loses them when it is encoded, as with Hugging Face tokenizers",
      model.where(), missing);
  return tokens;
}

StringMap<int32_t> whole_pieces(const TokenIds& ids, const ByteAlphabet& alphabet) {
  StringMap<int32_t> pieces;
  pieces.reserve(ids.size());
  for (const auto& [text, id] : ids)
    if (auto bytes = alphabet.bytes(text)) pieces.emplace(std::move(*bytes), id);
  return pieces;
}

Bpe read_model(const JsonField& model, Vocabulary& vocabulary) {
  check_model(model);
  const ByteAlphabet alphabet;
  const TokenIds ids = read_vocab(model.at("vocab"), alphabet, vocabulary);
  const std::vector<Bpe::Merge> merges = read_merges(model.at("merges"), ids);
  const auto bytes = byte_tokens(model, alphabet, ids);
  const bool ignore_merges = model.flag("ignore_merges", false);
  return Bpe(bytes, merges, ignore_merges ? whole_pieces(ids, alphabet) : StringMap<int32_t>());
}

bool read_nfc(const JsonField& normalizer) {
  const JsonField type = normalizer.at("type");
  if (type.text() == "NFC") {
    normalizer.only_keys({"type"});
    return true;
  }
  if (type.text() != "Sequence") type.refuse("only NFC and sequences of it are known normalizers");
  normalizer.only_keys({"type", "normalizers"});
  bool nfc = false;
  for (const JsonField& inner : normalizer.at("normalizers").items()) nfc = read_nfc(inner) || nfc;
  return nfc;
}

const icu::Normalizer2* nfc_normalizer() {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  if (U_FAILURE(status)) fail(kExitModel, "ICU cannot normalise to NFC: {}", u_errorName(status));
  return nfc;  // ICU's own; it lives as long as the process
}

std::string normalized_text(const icu::Normalizer2& normalizer, std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  normalizer.normalizeUTF8(0, {text.data(), static_cast<int32_t>(text.size())}, sink, nullptr, status);
  if (U_FAILURE(status)) throw std::runtime_error(fmt::format("normalisation failed: {}", u_errorName(status)));
  return out;
}

AddedToken read_added_token(const JsonField& token) {
  token.only_keys({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  const JsonField content = token.at("content");
  if (content.text().empty()) content.refuse("an added token needs a text");
  return {.content = std::string(content.text()),
          .id = token.at("id").token_id(),
          .special = token.flag("special", false),
          .single_word = token.flag("single_word", false),
          .lstrip = token.flag("lstrip", false),
          .rstrip = token.flag("rstrip", false)};
}

class JsonTokenizer : public VocabularyTokenizer {
 public:
  JsonTokenizer(const JsonField& file, const std::filesystem::path& folder, bool nfc)
      : nfc_(nfc ? nfc_normalizer() : nullptr),
        bpe_(read_model(file.at("model"), vocabulary_)),
        pre_tokenizer_(file.at("pre_tokenizer")) {
    std::vector<AddedToken> raw, normalized;
    if (const auto tokens = file.find("added_tokens"))
      for (const JsonField& field : tokens->items()) {
        AddedToken token = read_added_token(field);
        add_to_vocabulary(token, field);
        const bool in_normalized_text = field.flag("normalized", !token.special);
        if (in_normalized_text && nfc_) token.content = normalized_text(*nfc_, token.content);
        (in_normalized_text ? normalized : raw).push_back(std::move(token));
      }
    in_raw_text_ = AddedTokens(std::move(raw));
    in_normalized_text_ = AddedTokens(std::move(normalized));
    if (const auto processor = file.find("post_processor")) around_ = read_post_processor(*processor);
    add_configured_tokens(folder, *this, around_);
  }

 private:
  std::vector<int32_t> encode_valid(std::string_view text, EncodeOptions options) const override;

  // An added token may be one of the model's own tokens too; then it stands for its text, not for bytes.
  void add_to_vocabulary(const AddedToken& token, const JsonField& field) {
    const std::string_view own = bytes(token.id);
    if (!own.empty() && own != token.content && own != ByteAlphabet().bytes(token.content))
      field.refuse("another token of the vocabulary has this id");
    vocabulary_.set(token.id, token.content);
    vocabulary_.special[static_cast<size_t>(token.id)] = token.special;
    vocabulary_.added[token.content] = token.id;
  }

  const icu::Normalizer2* nfc_;  // null: the text is taken as it is
  Bpe bpe_;
  PreTokenizer pre_tokenizer_;
  AddedTokens in_raw_text_{{}}, in_normalized_text_{{}};
};

// Added tokens are cut out of the raw text first, the rest is normalised piece by piece (so that nothing composes
// across a token), and only then the added tokens that want normalised text are cut out.
std::vector<int32_t> JsonTokenizer::encode_valid(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> ids;
  std::string buffer;
  std::vector<std::string_view> pieces;
  const auto add_token = [&](int32_t id) { ids.push_back(id); };
  const auto encode_plain = [&](std::string_view plain) {
    pre_tokenizer_.split(plain, buffer, pieces);
    for (const std::string_view piece : pieces) bpe_.encode(piece, ids);
  };
  in_raw_text_.split(
      text, options.special_as_text,
      [&](std::string_view raw) {
        const std::string normalized = nfc_ ? normalized_text(*nfc_, raw) : std::string();
        in_normalized_text_.split(nfc_ ? normalized : raw, options.special_as_text, encode_plain, add_token);
      },
      add_token);
  return ids;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& path) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.load(path.string()).get(root))
    fail(kExitModel, "{}: {}", path.string(), simdjson::error_message(error));
  const JsonField file(root, path.string() + ": ");
  file.only_keys({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                  "decoder", "model"});
  const JsonField decoder = file.at("decoder").at("type");
  if (decoder.text() != "ByteLevel") decoder.refuse("only the ByteLevel decoder is known");
  const auto normalizer = file.find("normalizer");
  return std::make_unique<JsonTokenizer>(file, path.parent_path(), normalizer && read_nfc(*normalizer));
}

}  // namespace kt
