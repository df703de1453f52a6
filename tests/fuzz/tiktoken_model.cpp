// A folder with a tiktoken.model, the input up to its first NUL; what follows it is the tokenizer_config.json.
#include <algorithm>
#include <cstdint>
#include <string_view>

#include "runtime/base/error.h"
#include "runtime/text/tokens/tiktoken.h"
#include "tests/temp_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::TempFolder folder;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  folder.write("tiktoken.model", input.substr(0, end));
  folder.write("tokenizer_config.json",
               end < size ? input.substr(end + 1)
                          : R"({"added_tokens_decoder": {"256": {"content": "[BOS]", "special": true}}})");
  try {
    const auto tokenizer = kt::load_tiktoken(folder.path());
    kt::decode(*tokenizer, tokenizer->encode("ab [BOS] \xC3\xA9 1\n"), true);
  } catch (const kt::Error&) {
  }
  return 0;
}
