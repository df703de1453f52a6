#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/checkpoint/safetensors.h"

namespace kt {

// The tensors of one safetensors file, in order of position. Layout: 8 bytes little-endian header length, the header
// (JSON: name -> {dtype, shape, data_offsets}), then the data, which the tensors must cover without gap or overlap
// (https://huggingface.co/docs/safetensors, "Format"). Throws Error(kExitModel). `file` must outlive the result.
std::vector<std::pair<std::string, StoredTensor>> parse_header(std::span<const std::byte> bytes, std::string_view file);

}  // namespace kt
