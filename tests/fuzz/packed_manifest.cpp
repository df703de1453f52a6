// The manifest.json of a folder that `ktmpi convert` wrote.
#include <cstdint>
#include <string_view>

#include "runtime/base/error.h"
#include "runtime/checkpoint/packed.h"
#include "tests/fuzz/require.h"
#include "tests/temp_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::TempFolder folder;
  folder.write("manifest.json", std::string_view(reinterpret_cast<const char*>(data), size));
  try {
    const auto manifest = kt::read_manifest(folder.path());
    require(manifest && manifest->shape().bytes() > 0, "a manifest that was read has experts");
  } catch (const kt::Error&) {
  }
  return 0;
}
