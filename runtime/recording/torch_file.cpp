#include "runtime/recording/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

static_assert(std::endian::native == std::endian::little && sizeof(bool) == 1);

// "name/" where the archive holds name/data.pkl.
std::string archive_name(const ZipReader& zip, std::string_view where) {
  constexpr std::string_view kPickle = "data.pkl";
  for (const std::string& name : zip.names())
    if (name.ends_with(kPickle)) return name.substr(0, name.size() - kPickle.size());
  fail(kExitUsage, "{}: a zip archive, but not one of torch.save: it holds no data.pkl", where);
}

Pickle read_root(const ZipReader& zip, const std::string& archive, std::string_view where) {
  if (const auto order = zip.read(archive + "byteorder"))
    if (*order != "little")
      fail(kExitUsage, "{}: its byte order is {}; save it on a little-endian machine", where, *order);
  return read_pickle(*zip.read(archive + "data.pkl"), where);
}

// How many elements the tensor has. Refuses one that reaches beyond the `stored` elements of its storage, or that
// repeats them to more than there are.
int64_t count_elements(const PickleTensor& tensor, int64_t stored, std::string_view where) {
  int64_t count = 1, last = tensor.offset;
  bool fits = tensor.strides.size() == tensor.shape.size() && last >= 0 && last <= stored;
  for (size_t d = 0; fits && d < tensor.shape.size(); ++d) {
    const int64_t size = tensor.shape[d], stride = tensor.strides[d];
    fits =
        size >= 0 && stride >= 0 && (size <= 1 || (count <= stored / size && stride <= (stored - last) / (size - 1)));
    if (!fits) break;
    count *= size;
    last += std::max<int64_t>(size - 1, 0) * stride;
  }
  if (!fits || (count > 0 && last >= stored))
    fail(kExitUsage, "{}: a tensor [{}] with strides [{}] from {} is not within its {} elements", where,
         fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "), tensor.offset, stored);
  return count;
}

template <class T>
std::vector<double> gather(std::string_view bytes, const PickleTensor& tensor, std::string_view where) {
  const int64_t count = count_elements(tensor, static_cast<int64_t>(bytes.size() / sizeof(T)), where);
  std::vector<double> values;
  values.reserve(static_cast<size_t>(count));
  std::vector<int64_t> index(tensor.shape.size(), 0);
  int64_t at = tensor.offset;
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, bytes.data() + static_cast<size_t>(at) * sizeof(T), sizeof(T));
    values.push_back(static_cast<double>(value));
    for (size_t d = index.size(); d-- > 0;) {
      if (tensor.shape[d] == 1) continue;  // its stride may be any number
      at += tensor.strides[d];
      if (++index[d] < tensor.shape[d]) break;
      at -= tensor.shape[d] * tensor.strides[d];
      index[d] = 0;
    }
  }
  return values;
}

struct NumberType {
  std::string_view storage;
  std::vector<double> (*gather)(std::string_view, const PickleTensor&, std::string_view);
};

constexpr NumberType kNumberTypes[] = {
    {"BoolStorage", gather<uint8_t>},  // a byte that is neither 0 nor 1 is no bool of C++
    {"ByteStorage", gather<uint8_t>},  {"CharStorage", gather<int8_t>},  {"ShortStorage", gather<int16_t>},
    {"IntStorage", gather<int32_t>},   {"LongStorage", gather<int64_t>}, {"FloatStorage", gather<float>},
    {"DoubleStorage", gather<double>},
};

}  // namespace

TorchReader::TorchReader(const std::filesystem::path& path)
    : where_(path.string()),
      zip_(path),
      archive_(archive_name(zip_, where_)),
      pickle_(read_root(zip_, archive_, where_)) {}

std::vector<double> TorchReader::numbers(const PickleTensor& tensor) const {
  const PickleStorage& storage = tensor.storage;
  const auto type = std::find_if(std::begin(kNumberTypes), std::end(kNumberTypes),
                                 [&](const NumberType& t) { return t.storage == storage.type; });
  if (type == std::end(kNumberTypes))
    fail(kExitUsage, "{}: a tensor of torch.{}; expected integers, float or double", where_, storage.type);
  const auto bytes = zip_.read(archive_ + "data/" + storage.key);
  if (!bytes) fail(kExitUsage, "{}: it names the tensor data {}, which it does not hold", where_, storage.key);
  return type->gather(*bytes, tensor, where_);
}

TorchWriter::TorchWriter(std::filesystem::path path) : archive_(path.stem().string() + '/'), zip_(std::move(path)) {}

void TorchWriter::add_tensor(std::string_view bytes, std::string_view type, int64_t elements,
                             std::span<const int64_t> shape) {
  const std::string key = std::to_string(tensors_++);
  zip_.add(archive_ + "data/" + key, std::string(bytes));
  pickle.tensor({.type = std::string(type), .key = key, .elements = elements}, shape);
}

void TorchWriter::finish() {
  zip_.add(archive_ + "data.pkl", pickle.finish());
  zip_.add(archive_ + "byteorder", "little");
  zip_.add(archive_ + "version", "3\n");
  zip_.finish();
}

}  // namespace kt
