#include "runtime/client/prompts.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <random>
#include <set>
#include <string>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/client/http_call.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;
using Random = std::mt19937_64;

size_t below(Random& random, size_t limit) { return random() % limit; }

std::string random_word(Random& random) {
  constexpr std::string_view kVowels = "aeiou", kConsonants = "bcdfghjklmnprstvwz";
  std::string word;
  for (size_t syllables = 1 + below(random, 3); syllables > 0; --syllables) {
    word += kConsonants[below(random, kConsonants.size())];
    word += kVowels[below(random, kVowels.size())];
  }
  return word;
}

std::string random_text(Random& random, int words) {
  std::string text;
  for (int i = 0; i < words; ++i) {
    if (i > 0) text += ' ';
    text += random_word(random);
  }
  return text;
}

// Nothing: the server does not tokenize.
std::optional<std::vector<int32_t>> tokenize(const Endpoint& endpoint, const std::string& text) {
  const Json body = {{"prompt", text}};
  const HttpAnswer answer = fetch(endpoint, "/tokenize", body.dump(-1, ' ', false, Json::error_handler_t::replace));
  if (!answer.error.empty()) fail(kExitTryAgain, "{}", answer.error);
  if (answer.status == 404 || answer.status == 405) return std::nullopt;
  if (answer.status != 200) fail(kExitUsage, "/tokenize: {}: {}", answer.status, error_message(answer.body));
  const Json json = Json::parse(answer.body, nullptr, false);
  const Json tokens = json.is_object() ? json.value("tokens", Json()) : Json();
  const auto is_id = [](const Json& token) { return token.is_number_integer(); };
  if (!tokens.is_array() || !std::all_of(tokens.begin(), tokens.end(), is_id))
    fail(kExitUsage, "/tokenize: expected a list of token ids, found {:.200}", answer.body);
  return tokens.get<std::vector<int32_t>>();
}

Json read_list(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(kExitUsage, "dataset-path {}: cannot be read", file.string());
  Json list = Json::parse(in, nullptr, false);
  if (!list.is_array()) fail(kExitUsage, "dataset-path {}: a JSON list of conversations is expected", file.string());
  return list;
}

struct Pair {
  std::string question, answer;
};

std::optional<Pair> first_pair(const Json& entry) {
  const Json turns = entry.is_object() ? entry.value("conversations", Json()) : Json();
  if (!turns.is_array() || turns.size() < 2) return std::nullopt;
  std::string texts[2];
  for (size_t i = 0; i < 2; ++i) {
    const Json value = turns[i].is_object() ? turns[i].value("value", Json()) : Json();
    if (!value.is_string()) return std::nullopt;
    texts[i] = value.get<std::string>();
  }
  return Pair{texts[0], texts[1]};
}

}  // namespace

std::vector<Prompt> random_prompts(const Endpoint& endpoint, int count, int prompt_tokens, int output_tokens,
                                   uint64_t seed) {
  constexpr int kSampleWords = 4000;  // have some thousand different tokens
  Random random(seed);
  std::vector<int32_t> pool;
  if (const auto ids = tokenize(endpoint, random_text(random, kSampleWords))) {
    const std::set<int32_t> distinct(ids->begin(), ids->end());
    pool.assign(distinct.begin(), distinct.end());
  } else {
    log_warning("the server has no /tokenize: prompts are {} random words, which may be more tokens", prompt_tokens);
  }
  std::vector<Prompt> prompts;
  for (int i = 0; i < count; ++i) {
    Prompt prompt{.prompt_tokens = prompt_tokens, .output_tokens = output_tokens};
    if (pool.empty()) {
      prompt.prompt = random_text(random, prompt_tokens);
    } else {
      prompt.prompt = Json::array();
      for (int t = 0; t < prompt_tokens; ++t) prompt.prompt.push_back(pool[below(random, pool.size())]);
    }
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

std::vector<Prompt> sharegpt_prompts(const Endpoint& endpoint, const std::filesystem::path& file, int count,
                                     int output_tokens, uint64_t seed) {
  constexpr int kLeast = 4, kMostPrompt = 1024, kMostTogether = 2048;
  Json list = read_list(file);
  Random random(seed);
  for (size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[below(random, i)]);

  std::vector<Prompt> prompts;
  for (const Json& entry : list) {
    if (static_cast<int>(prompts.size()) == count) break;
    const auto pair = first_pair(entry);
    if (!pair) continue;
    const auto question = tokenize(endpoint, pair->question), answer = tokenize(endpoint, pair->answer);
    if (!question || !answer)
      fail(kExitUsage, "dataset-path: the server has no /tokenize, which says how long the answers are to be");
    const int length = static_cast<int>(question->size());
    const int wanted = output_tokens > 0 ? output_tokens : static_cast<int>(answer->size());
    if (length < kLeast || wanted < kLeast || length > kMostPrompt || length + wanted > kMostTogether) continue;
    prompts.push_back({pair->question, length, wanted});
  }
  if (static_cast<int>(prompts.size()) < count)
    fail(kExitUsage, "dataset-path {}: {} conversations can be used, {} prompts are asked for", file.string(),
         prompts.size(), count);
  return prompts;
}

}  // namespace kt
