#include <algorithm>
#include <bit>
#include <unordered_map>

#include "runtime/base/error.h"
#include "runtime/recording/pickle.h"

namespace kt {
namespace {

constexpr std::string_view kTensor = "torch._utils _rebuild_tensor_v2", kDict = "collections OrderedDict";

class Machine {
 public:
  Machine(std::string_view bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  Pickle run() && {
    while (step(take(1)[0])) {
    }
    Pickle pickle;
    pickle.root = pop();
    pickle.values = std::move(values_);
    return pickle;
  }

 private:
  using Sequence = PickleValue::Sequence;
  using Dict = PickleValue::Dict;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(kExitUsage, "{}: the pickle in it, at byte {}: {}", where_, at_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  // False at the end of the program.
  bool step(char code) {
    switch (code) {
      case '\x80': check_protocol(); break;
      case '(': marks_.push_back(stack_.size()); break;
      case 'N': push(std::monostate()); break;
      case '\x88': push(true); break;
      case '\x89': push(false); break;
      case 'K': push(static_cast<int64_t>(number(1))); break;
      case 'M': push(static_cast<int64_t>(number(2))); break;
      case 'J': push(int64_t{static_cast<int32_t>(number(4))}); break;
      case '\x8a': push(long_integer()); break;
      case 'G': push(big_endian_double()); break;
      case 'X': push(std::string(take(number(4)))); break;
      case 'c': push(name()); break;
      case ']': push(Sequence()); break;
      case '}': push(Dict()); break;
      case ')': push(Sequence()); break;
      case 't': push(pop_to_mark()); break;
      case '\x85': push(pop_last(1)); break;
      case '\x86': push(pop_last(2)); break;
      case '\x87': push(pop_last(3)); break;
      case 'a': append(pop_last(1)); break;
      case 'e': append(pop_to_mark()); break;
      case 's': insert(pop_last(2)); break;
      case 'u': insert(pop_to_mark()); break;
      case 'q': memo_[number(1)] = top(); break;
      case 'r': memo_[number(4)] = top(); break;
      case 'h': recall(number(1)); break;
      case 'j': recall(number(4)); break;
      case 'Q': push(storage(pop())); break;
      case 'R': call(); break;
      case '.': return false;
      default: refuse("opcode 0x{:02x} is not used for plain values and tensors", static_cast<unsigned char>(code));
    }
    return true;
  }

  std::string_view take(size_t count) {
    if (count > bytes_.size() - at_) refuse("it ends in the middle");
    at_ += count;
    return bytes_.substr(at_ - count, count);
  }

  uint64_t number(size_t bytes) {
    uint64_t value = 0;
    const std::string_view text = take(bytes);
    for (size_t i = 0; i < bytes; ++i) value |= uint64_t{static_cast<unsigned char>(text[i])} << (8 * i);
    return value;
  }

  int64_t long_integer() {
    const size_t bytes = number(1);
    if (bytes > 8) refuse("an integer of {} bytes", bytes);
    if (bytes == 0) return 0;
    const int unused = static_cast<int>(64 - 8 * bytes);
    return static_cast<int64_t>(number(bytes) << unused) >> unused;
  }

  double big_endian_double() {
    uint64_t bits = 0;
    for (const char c : take(8)) bits = bits << 8 | static_cast<unsigned char>(c);
    return std::bit_cast<double>(bits);
  }

  std::string line() {
    const size_t begin = at_;
    while (take(1)[0] != '\n') {
    }
    return std::string(bytes_.substr(begin, at_ - begin - 1));
  }

  PickleName name() {
    std::string module = line();
    return {module + ' ' + line()};
  }

  void check_protocol() {
    if (const uint64_t protocol = number(1); protocol > 3)
      refuse("protocol {}; torch.save writes 2 unless told otherwise", protocol);
  }

  template <class T>
  void push(T value) {
    stack_.push_back(&values_.emplace_back(PickleValue{std::move(value)}));
  }
  void recall(uint64_t key) {
    const auto found = memo_.find(key);
    if (found == memo_.end()) refuse("it recalls value {}, which it did not keep", key);
    stack_.push_back(found->second);
  }

  size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }
  PickleValue* top() const {
    if (stack_.size() <= bottom()) refuse("its stack is empty");
    return stack_.back();
  }
  PickleValue* pop() {
    PickleValue* value = top();
    stack_.pop_back();
    return value;
  }
  Sequence pop_last(size_t count) {
    if (stack_.size() - bottom() < count) refuse("its stack is empty");
    Sequence values(stack_.end() - static_cast<std::ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    return values;
  }
  Sequence pop_to_mark() {
    if (marks_.empty()) refuse("its stack has no mark");
    Sequence values = pop_last(stack_.size() - marks_.back());
    marks_.pop_back();
    return values;
  }

  // A tuple looks like a list here; no program of Python's appends to one.
  void append(const Sequence& values) {
    auto* list = std::get_if<Sequence>(&top()->is);
    if (!list) refuse("it appends to what is no list");
    list->insert(list->end(), values.begin(), values.end());
  }
  void insert(const Sequence& keys_and_values) {
    auto* dict = std::get_if<Dict>(&top()->is);
    if (!dict || keys_and_values.size() % 2) refuse("it inserts into what is no dict");
    for (size_t i = 0; i < keys_and_values.size(); i += 2)
      dict->emplace_back(keys_and_values[i], keys_and_values[i + 1]);
  }

  template <class T>
  const T& expect(const PickleValue* value, std::string_view what) const {
    const T* found = value->as<T>();
    if (!found) refuse("a tensor's {} is of another type", what);
    return *found;
  }
  const Sequence& expect_tuple(const PickleValue* value, size_t size, std::string_view what) const {
    const Sequence& tuple = expect<Sequence>(value, what);
    if (tuple.size() < size) refuse("a tensor's {} has {} parts instead of {}", what, tuple.size(), size);
    return tuple;
  }

  PickleStorage storage(const PickleValue* id) const {
    const Sequence& parts = expect_tuple(id, 5, "storage");
    const std::string& type = expect<PickleName>(parts[1], "storage type").name;
    if (expect<std::string>(parts[0], "storage") != "storage" || !type.starts_with("torch "))
      refuse("a tensor's storage is of the unknown type {}", type);
    return {.type = type.substr(6),
            .key = expect<std::string>(parts[2], "storage key"),
            .elements = expect<int64_t>(parts[4], "storage size")};
  }

  std::vector<int64_t> integers(const PickleValue* tuple, std::string_view what) const {
    std::vector<int64_t> numbers;
    for (const PickleValue* n : expect<Sequence>(tuple, what)) numbers.push_back(expect<int64_t>(n, what));
    return numbers;
  }

  void call() {
    const Sequence function_and_arguments = pop_last(2);
    const auto* function = function_and_arguments[0]->as<PickleName>();
    const PickleValue* arguments = function_and_arguments[1];
    const std::string_view called = function ? std::string_view(function->name) : "a value";
    if (called == kTensor) {
      const Sequence& parts = expect_tuple(arguments, 4, "description");
      push(PickleTensor{.storage = expect<PickleStorage>(parts[0], "storage"),
                        .offset = expect<int64_t>(parts[1], "offset"),
                        .shape = integers(parts[2], "shape"),
                        .strides = integers(parts[3], "strides")});
    } else if (called == kDict && expect<Sequence>(arguments, "dict").empty()) {
      push(Dict());
    } else {
      refuse("it calls {}; only tensors and plain values are read, nothing is ever run", called);
    }
  }

  std::string_view bytes_;
  std::string_view where_;
  size_t at_ = 0;
  std::deque<PickleValue> values_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

}  // namespace

const PickleValue* PickleValue::find(std::string_view key) const {
  const Dict* dict = as<Dict>();
  if (!dict) return nullptr;
  const auto found = std::find_if(dict->begin(), dict->end(), [&](const auto& entry) {
    const std::string* text = entry.first->template as<std::string>();
    return text && *text == key;
  });
  return found == dict->end() ? nullptr : found->second;
}

Pickle read_pickle(std::string_view bytes, std::string_view where) { return Machine(bytes, where).run(); }

}  // namespace kt
