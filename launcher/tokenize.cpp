#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/config/hub_cache.h"
#include "runtime/text/json/json_exact.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {
namespace {

namespace po = boost::program_options;
using Json = nlohmann::ordered_json;
using Ids = std::vector<int32_t>;

constexpr std::string_view kSummary =
    "Usage: ktmpi tokenize --tokenizer-path DIR [--special-as-text] [--add-special-tokens] < records > answers\n\n"
    "Turns text into token ids and back, one JSON record a line:\n"
    "  {\"text\": ...}  ->  {\"ids\", \"decoded\", \"stream\"}\n"
    "  {\"ids\": [...]} ->  {\"decoded\", \"stream\"}\n"
    "`stream` is what decoding token by token emits after each id, and a last element for the rest.\n"
    "A record that is refused is answered with {\"error\"}. Other members of a record are not looked at.";

Ids ids_of(const Json& field) {
  if (!field.is_array()) throw std::runtime_error("ids: a list of token ids is expected");
  Ids ids;
  for (const Json& id : field) {
    const bool fits = id.is_number_unsigned() && id.get<uint64_t>() <= std::numeric_limits<int32_t>::max();
    if (!fits) throw std::runtime_error(fmt::format("ids[{}]: {} is not a token id", ids.size(), dump_exact(id)));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

Json answer(const Tokenizer& tokenizer, EncodeOptions options, std::string_view line) {
  const Json record = parse_exact(line);
  if (!record.is_object()) throw std::runtime_error("a JSON object is expected");
  Json out = Json::object();
  Ids ids;
  if (record.contains("text")) {
    if (!record["text"].is_string()) throw std::runtime_error("text: a string is expected");
    ids = tokenizer.encode(record["text"].get_ref<const std::string&>(), options);
    out["ids"] = ids;
  } else if (record.contains("ids")) {
    ids = ids_of(record["ids"]);
  } else {
    throw std::runtime_error("a record needs text or ids");
  }
  out["decoded"] = decode(tokenizer, ids, false);
  out["stream"] = decode_stream(tokenizer, ids);
  return out;
}

}  // namespace

int tokenize_command(int argc, char** argv) {
  std::string folder;
  EncodeOptions encode_options;
  po::options_description options;
  options.add_options()("tokenizer-path", po::value(&folder)->value_name("DIR")->required(),
                        "folder of the tokenizer.json");
  options.add_options()("special-as-text", po::bool_switch(&encode_options.special_as_text),
                        "do not recognise the vocabulary's special tokens in the text");
  options.add_options()("add-special-tokens", po::bool_switch(&encode_options.add_special_tokens),
                        "with the tokens around a text that Hugging Face adds, a BOS say");
  if (!read_options(argc, argv, kSummary, options)) return kExitOk;

  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(model_folder("tokenizer-path", folder));
  return answer_lines([&](std::string_view line) { return answer(*tokenizer, encode_options, line); });
}

}  // namespace kt
