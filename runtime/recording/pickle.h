#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace kt {

// The part of Python's pickle format, protocol 2, that torch.save writes for plain values and tensors
// (CPython's Lib/pickletools.py describes it). A pickle is a program for a stack machine, and one that may name any
// function to call; here names are compared with those of a tensor's parts and never looked up, so nothing is run.

// Elements of a file beside the pickle, as in ('storage', torch.IntStorage, '0', 'cpu', 3072).
struct PickleStorage {
  std::string type;  // "IntStorage"
  std::string key;   // name of the file
  int64_t elements = 0;
};

struct PickleTensor {
  PickleStorage storage;
  int64_t offset = 0;  // of the first element
  std::vector<int64_t> shape, strides;
};

// A function or class by name: "torch._utils _rebuild_tensor_v2".
struct PickleName {
  std::string name;
};

struct PickleValue {
  using Sequence = std::vector<const PickleValue*>;  // list or tuple
  using Dict = std::vector<std::pair<const PickleValue*, const PickleValue*>>;
  std::variant<std::monostate, bool, int64_t, double, std::string, Sequence, Dict, PickleName, PickleStorage,
               PickleTensor>
      is;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&is);
  }
  const PickleValue* find(std::string_view key) const;  // in a dict; nullptr: it is none, or has no such key
};

struct Pickle {
  std::deque<PickleValue> values;  // owns all of them; they may name each other in any way
  const PickleValue* root = nullptr;
};

// Throws Error(kExitUsage), which names what is not of this subset. `where` begins the message.
Pickle read_pickle(std::string_view bytes, std::string_view where);

// Writes one pickle in the order of reading: begin_dict, then key, value, key, value, ..., end_dict.
class PickleWriter {
 public:
  PickleWriter();

  void begin_dict();
  void end_dict();
  void begin_list();
  void end_list();
  void none();
  void integer(int64_t value);
  void text(std::string_view value);
  void tensor(const PickleStorage& storage, std::span<const int64_t> shape);  // contiguous, all of its storage

  std::string finish();

 private:
  void opcode(char code) { bytes_ += code; }
  void number(uint64_t value, int bytes);  // little endian
  void name(std::string_view module, std::string_view function);

  std::string bytes_;
};

}  // namespace kt
