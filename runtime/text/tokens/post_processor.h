#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "runtime/text/json/json_field.h"
#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// What stands around a text that is encoded with add_special_tokens.
struct SpecialTokens {
  std::vector<int32_t> before, after;
};

// The post_processor of a tokenizer.json, for one text. Throws Error(kExitModel) for a kind that is not known.
SpecialTokens read_post_processor(const JsonField& processor);

// add_bos_token and add_eos_token of a tokenizer_config.json: those tokens too, unless they are there. Classes of
// tokenizers have defaults of their own for them and the newest drop them; ktmpi does what the file says.
// Throws Error(kExitModel) where such a token is asked for and not named, or unknown to the tokenizer.
void add_configured_tokens(const std::filesystem::path& folder, const Tokenizer& tokenizer, SpecialTokens& tokens);

}  // namespace kt
