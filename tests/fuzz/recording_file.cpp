// Counts of expert use: a file of torch.save, or JSON.
#include <cstdint>
#include <string_view>

#include "runtime/base/error.h"
#include "runtime/recording/counts_file.h"
#include "tests/temp_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::TempFolder folder;
  folder.write("counts", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    kt::read_counts(folder.path() / "counts");
  } catch (const kt::Error&) {
  }
  return 0;
}
