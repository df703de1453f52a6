// A tokenizer.json; one that is understood has to encode and decode.
#include <cstdint>
#include <string_view>

#include "runtime/base/error.h"
#include "runtime/text/tokens/tokenizer_json.h"
#include "tests/temp_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::TempFolder folder;
  folder.write("tokenizer.json", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const auto tokenizer = kt::load_tokenizer_json(folder.path() / "tokenizer.json");
    kt::decode(*tokenizer, tokenizer->encode("ab <s> \xC3\xA9 1\n"), true);
  } catch (const kt::Error&) {
  }
  return 0;
}
