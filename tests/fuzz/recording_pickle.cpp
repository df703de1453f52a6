// The pickle of a recording, in an archive whose checksums are right, beside 64 numbers.
#include <cstdint>
#include <string>

#include "runtime/base/error.h"
#include "runtime/recording/counts_file.h"
#include "runtime/recording/zip_archive.h"
#include "tests/temp_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kt::TempFolder folder;
  const std::filesystem::path file = folder.path() / "recording.pt";
  std::filesystem::remove(file);
  kt::ZipWriter zip(file);
  zip.add("r/data.pkl", std::string(reinterpret_cast<const char*>(data), size));
  zip.add("r/data/0", std::string(64 * sizeof(int32_t), '\1'));
  zip.finish();
  try {
    kt::read_counts(file);
  } catch (const kt::Error&) {
  }
  return 0;
}
