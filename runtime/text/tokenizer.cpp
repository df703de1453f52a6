#include "runtime/text/tokenizer.h"

#include "runtime/base/error.h"
#include "runtime/text/tokenizer_json.h"

namespace kt {

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder))
    fail(kExitModel, "{}: not a folder; give the model's folder, the one with tokenizer.json", folder.string());
  if (std::filesystem::exists(folder / "tokenizer.json")) return load_tokenizer_json(folder / "tokenizer.json");
  if (std::filesystem::exists(folder / "tiktoken.model"))
    fail(kExitModel,
         "{}: the vocabulary is a tiktoken.model, and only tokenizer.json is read; "
         "give the folder of a converted tokenizer with --tokenizer-path",
         folder.string());
  fail(kExitModel, "{}: no tokenizer.json; give the folder that has one with --tokenizer-path", folder.string());
}

}  // namespace kt
