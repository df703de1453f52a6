#pragma once

#include <filesystem>
#include <memory>

#include "runtime/text/tokens/tokenizer.h"

namespace kt {

// A tokenizer.json of Hugging Face tokenizers with a byte-level BPE model. Throws Error(kExitModel) naming the field
// that is not understood. Fields that concern padding and truncation are not used. The tokenizer_config.json beside it
// may ask for more special tokens around a text, see post_processor.h.
std::unique_ptr<Tokenizer> load_tokenizer_json(const std::filesystem::path& file);

}  // namespace kt
