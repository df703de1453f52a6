#include "runtime/text/tokens/tokenizer.h"

#include "runtime/base/error.h"
#include "runtime/text/tokens/tiktoken.h"
#include "runtime/text/tokens/tokenizer_json.h"

namespace kt {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder))
    fail(kExitModel, "{}: not a folder; give the model's folder, the one with tokenizer.json or tiktoken.model",
         folder.string());
  if (std::filesystem::exists(folder / "tokenizer.json")) return load_tokenizer_json(folder / "tokenizer.json");
  if (std::filesystem::exists(folder / "tiktoken.model")) return load_tiktoken(folder);
  fail(kExitModel, "{}: neither tokenizer.json nor tiktoken.model; give the folder that has one with --tokenizer-path",
       folder.string());
}

}  // namespace kt
