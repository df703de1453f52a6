#include "runtime/checkpoint/header.h"

#include <algorithm>
#include <array>

#include "runtime/base/error.h"
#include "runtime/checkpoint/shown.h"
#include "runtime/checkpoint/strict_json.h"

namespace kt {
namespace {

using nlohmann::json;

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation
constexpr size_t kMaxDepth = 4;                    // header, tensor, shape; one to spare for metadata

struct TypeInfo {
  std::string_view name;
  size_t bytes;
};
constexpr std::array<TypeInfo, 15> kTypes = {{{"F64", 8},
                                              {"F32", 4},
                                              {"F16", 2},
                                              {"BF16", 2},
                                              {"F8_E4M3", 1},
                                              {"F8_E5M2", 1},
                                              {"I64", 8},
                                              {"I32", 4},
                                              {"I16", 2},
                                              {"I8", 1},
                                              {"U64", 8},
                                              {"U32", 4},
                                              {"U16", 2},
                                              {"U8", 1},
                                              {"BOOL", 1}}};
static_assert(kTypes.size() == static_cast<size_t>(StoredType::boolean) + 1);

std::string_view header_text(std::span<const std::byte> bytes, std::string_view file) {
  if (bytes.size() < 8) {
    fail(kExitModel, "{}: expected a safetensors file, found {} bytes; was it downloaded completely?", file,
         bytes.size());
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("version https://git-lfs")) {
    fail(kExitModel, "{}: this is a Git LFS pointer, not the weights; fetch them with `git lfs pull`", file);
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) length = length << 8 | std::to_integer<uint64_t>(bytes[i]);
  if (length > kMaxHeaderBytes) {
    fail(kExitModel, "{}: header length is {} bytes, expected at most {}; is this a safetensors file?", file, length,
         kMaxHeaderBytes);
  }
  if (length > bytes.size() - 8) {
    fail(kExitModel, "{}: the header says {} bytes, but the file ends after {}; was it downloaded completely?", file,
         length, bytes.size() - 8);
  }
  if (length == 0 || text[8] != '{') fail(kExitModel, "{}: the header does not start with '{{'", file);
  return text.substr(8, length);
}

StoredType parse_type(const json& entry, std::string_view where) {
  const auto it = entry.find("dtype");
  if (it == entry.end() || !it->is_string()) fail(kExitModel, "{}: dtype: expected a string", where);
  const auto& name = it->get_ref<const std::string&>();
  const auto known = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeInfo& t) { return t.name == name; });
  if (known == kTypes.end()) fail(kExitModel, "{}: dtype {} is not supported", where, shown(name));
  return static_cast<StoredType>(known - kTypes.begin());
}

// A list of integers in [0, 2^63).
std::vector<int64_t> parse_sizes(const json& entry, const char* key, std::string_view where) {
  const auto it = entry.find(key);
  if (it == entry.end() || !it->is_array()) fail(kExitModel, "{}: {}: expected a list of integers", where, key);
  std::vector<int64_t> sizes;
  for (const json& item : *it) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > INT64_MAX) {
      fail(kExitModel, "{}: {}: expected integers from 0, found {}", where, key, shown(item.dump()));
    }
    sizes.push_back(item.get<int64_t>());
  }
  return sizes;
}

// product(shape) * bytes_of(type), if that is a size at all.
std::optional<int64_t> size_in_bytes(const StoredTensor& tensor) {
  const auto count = count_rows(tensor.shape);
  int64_t elements = 0, bytes = 0;
  if (!count || __builtin_mul_overflow(count->rows, count->columns, &elements)) return std::nullopt;
  if (__builtin_mul_overflow(elements, static_cast<int64_t>(bytes_of(tensor.type)), &bytes)) return std::nullopt;
  return bytes;
}

StoredTensor parse_tensor(const json& entry, std::span<const std::byte> data, std::string_view where,
                          std::string_view file) {
  if (!entry.is_object()) fail(kExitModel, "{}: expected an object with dtype, shape and data_offsets", where);
  StoredTensor tensor{parse_type(entry, where), parse_sizes(entry, "shape", where), {}, file};
  const std::vector<int64_t> offsets = parse_sizes(entry, "data_offsets", where);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fail(kExitModel, "{}: data_offsets: expected (begin, end), found {}", where, shown(offsets));
  }
  const auto bytes = size_in_bytes(tensor);
  if (!bytes || *bytes != offsets[1] - offsets[0]) {
    fail(kExitModel, "{}: {} of shape {} takes {} bytes, but its data_offsets [{}, {}] hold {}", where,
         name_of(tensor.type), shown(tensor.shape), bytes ? fmt::to_string(*bytes) : "more than 2^63", offsets[0],
         offsets[1], offsets[1] - offsets[0]);
  }
  if (static_cast<size_t>(offsets[1]) > data.size()) {
    fail(kExitModel, "{}: its data end at byte {}, but the file holds {} bytes of data; was it downloaded completely?",
         where, offsets[1], data.size());
  }
  tensor.bytes = data.subspan(static_cast<size_t>(offsets[0]), static_cast<size_t>(*bytes));
  return tensor;
}

}  // namespace

size_t bytes_of(StoredType type) { return kTypes[static_cast<size_t>(type)].bytes; }
std::string_view name_of(StoredType type) { return kTypes[static_cast<size_t>(type)].name; }

std::optional<RowCount> count_rows(std::span<const int64_t> shape) {
  RowCount count;
  if (shape.empty()) return count;
  for (const int64_t size : shape.first(shape.size() - 1)) {
    if (__builtin_mul_overflow(count.rows, size, &count.rows)) return std::nullopt;
  }
  count.columns = shape.back();
  return count;
}

std::vector<std::pair<std::string, StoredTensor>> parse_header(std::span<const std::byte> bytes,
                                                               std::string_view file) {
  const std::string_view text = header_text(bytes, file);
  const std::span<const std::byte> data = bytes.subspan(8 + text.size());
  const json header = parse_strict_json(text, fmt::format("{}: header", file), kMaxDepth);

  std::vector<std::pair<std::string, StoredTensor>> tensors;
  tensors.reserve(header.size());
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    tensors.emplace_back(name, parse_tensor(entry, data, fmt::format("{}: tensor {}", file, shown(name)), file));
  }

  // Empty tensors lie between others, so the order needs the end as well.
  const auto position = [](const auto& t) {
    return std::pair(t.second.bytes.data(), t.second.bytes.data() + t.second.bytes.size());
  };
  std::sort(tensors.begin(), tensors.end(), [&](const auto& a, const auto& b) { return position(a) < position(b); });
  const std::byte* end = data.data();
  for (const auto& tensor : tensors) {
    if (position(tensor).first != end) {
      fail(kExitModel, "{}: tensor {}: its data begin at byte {}, expected at {}, where the tensor before it ends",
           file, shown(tensor.first), position(tensor).first - data.data(), end - data.data());
    }
    end = position(tensor).second;
  }
  if (end != data.data() + data.size()) {
    fail(kExitModel, "{}: the tensors end at byte {}, but the file holds {} bytes of data", file, end - data.data(),
         data.size());
  }
  return tensors;
}

}  // namespace kt
