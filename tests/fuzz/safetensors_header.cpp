// A safetensors file: its header, and tensors that lie in its data.
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/error.h"
#include "runtime/checkpoint/header.h"
#include "tests/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    size_t total = 0;
    for (const auto& [name, tensor] : kt::parse_header(bytes, "model.safetensors")) total += tensor.bytes.size();
    require(total < size, "the tensors are within the file");
  } catch (const kt::Error&) {
  }
  return 0;
}
