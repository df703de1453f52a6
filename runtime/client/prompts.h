#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "runtime/client/endpoint.h"

namespace kt {

// One prompt of a load: a text, or a list of token ids.
struct Prompt {
  nlohmann::json prompt;
  int prompt_tokens = 0, output_tokens = 0;
};

// Prompts of random ordinary tokens, which the server's /tokenize finds; of random words, each about one token or two,
// when the server has no such route. Throws Error when the server does not answer.
std::vector<Prompt> random_prompts(const Endpoint& endpoint, int count, int prompt_tokens, int output_tokens,
                                   uint64_t seed);

// First questions of the conversations in a ShareGPT file (a list of {"conversations": [{"value"}, {"value"}, ...]}) in
// random order, each to be answered with as many tokens as the answer in the file has, or `output_tokens` if that is
// not 0. As in vLLM, pairs are passed over with less than 4 tokens on either side, more than 1024 in the question, or
// more than 2048 together. Throws Error(kExitUsage) for a file that is no such list or has too few.
std::vector<Prompt> sharegpt_prompts(const Endpoint& endpoint, const std::filesystem::path& file, int count,
                                     int output_tokens, uint64_t seed);

}  // namespace kt
