#pragma once

#include <filesystem>
#include <memory>

#include "runtime/text/tokenizer.h"

namespace kt {

// A tokenizer.json of Hugging Face tokenizers with a byte-level BPE model. Throws Error(kExitModel) naming the field
// that is not understood. Fields that concern padding, truncation and the special tokens around a sequence
// (post_processor) are not used: prompts are encoded as they are.
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);

}  // namespace kt
