#include <limits>

#include "runtime/recording/pickle.h"

namespace kt {

PickleWriter::PickleWriter() { bytes_ += "\x80\x02"; }

void PickleWriter::begin_dict() { bytes_ += "}("; }
void PickleWriter::end_dict() { opcode('u'); }
void PickleWriter::begin_list() { bytes_ += "]("; }
void PickleWriter::end_list() { opcode('e'); }
void PickleWriter::none() { opcode('N'); }

void PickleWriter::integer(int64_t value) {
  if (value >= std::numeric_limits<int32_t>::min() && value <= std::numeric_limits<int32_t>::max()) {
    opcode('J');
    number(static_cast<uint64_t>(value), 4);
  } else {
    bytes_ += "\x8a\x08";
    number(static_cast<uint64_t>(value), 8);
  }
}

void PickleWriter::text(std::string_view value) {
  opcode('X');
  number(value.size(), 4);
  bytes_ += value;
}

// torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, OrderedDict()); the storage is a
// "persistent id" that torch.load turns into the file of that key.
void PickleWriter::tensor(const PickleStorage& storage, std::span<const int64_t> shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
  const auto tuple = [&](std::span<const int64_t> numbers) {
    opcode('(');
    for (const int64_t n : numbers) integer(n);
    opcode('t');
  };
  name("torch._utils", "_rebuild_tensor_v2");
  opcode('(');
  {
    opcode('(');
    text("storage");
    name("torch", storage.type);
    text(storage.key);
    text("cpu");
    integer(storage.elements);
    bytes_ += "tQ";
  }
  integer(0);
  tuple(shape);
  tuple(strides);
  opcode('\x89');
  name("collections", "OrderedDict");
  bytes_ += ")RtR";
}

std::string PickleWriter::finish() {
  opcode('.');
  return std::move(bytes_);
}

void PickleWriter::number(uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) bytes_ += static_cast<char>(value >> (8 * i));
}

void PickleWriter::name(std::string_view module, std::string_view function) {
  opcode('c');
  bytes_ += module;
  opcode('\n');
  bytes_ += function;
  opcode('\n');
}

}  // namespace kt
