#pragma once

#include <filesystem>
#include <memory>

#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// Kimi's tokenizer (tokenizer_class TikTokenTokenizer): ranks from tiktoken.model, special tokens from
// tokenizer_config.json, and what tokenization_kimi.py adds in code. Other classes that keep a tiktoken.model split
// text in other ways and are refused. Throws Error(kExitModel).
std::unique_ptr<Tokenizer> load_tiktoken(const std::filesystem::path& folder);

}  // namespace kt
