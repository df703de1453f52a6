#include "runtime/checkpoint/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <system_error>
#include <unordered_map>

#include "runtime/base/error.h"
#include "runtime/checkpoint/header.h"
#include "runtime/checkpoint/mapped_file.h"
#include "runtime/checkpoint/shown.h"
#include "runtime/checkpoint/strict_json.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kLoneName = "model.safetensors";

struct NameHash : std::hash<std::string_view> {
  using is_transparent = void;
};
using TensorMap = std::unordered_map<std::string, StoredTensor, NameHash, std::equal_to<>>;

// Asks the kernel to read pages ahead of the copy that follows; only a hint, so failure does not matter.
void announce_reading(std::span<const std::byte> bytes) {
  constexpr size_t kWorthACall = size_t{1} << 20;
  if (bytes.size() < kWorthACall) return;
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const uintptr_t first_page = begin / page * page;
  ::madvise(reinterpret_cast<void*>(first_page), begin + bytes.size() - first_page, MADV_WILLNEED);
}

class MappedCheckpoint final : public Checkpoint {
 public:
  explicit MappedCheckpoint(fs::path folder) : folder_(std::move(folder)) {}

  // Takes from a shard the tensors called `wanted`, or all when there is no index to say.
  void add_shard(const std::string& name, const std::vector<std::string>* wanted);

  const StoredTensor* find(std::string_view name) const override {
    const auto it = tensors_.find(name);
    return it == tensors_.end() ? nullptr : &it->second;
  }
  StoredRows rows(std::string_view name, std::span<const int64_t> shape, int64_t first, int64_t count,
                  std::vector<std::byte>& scratch) const override;
  std::vector<std::string_view> names() const override;
  size_t total_bytes() const override;

 private:
  struct Shard {
    std::string name;
    MappedFile file;
  };
  fs::path folder_;
  std::vector<std::unique_ptr<const Shard>> shards_;  // their addresses stay: tensors point to name and bytes
  TensorMap tensors_;
};

void MappedCheckpoint::add_shard(const std::string& name, const std::vector<std::string>* wanted) {
  shards_.push_back(std::make_unique<const Shard>(Shard{name, MappedFile(folder_ / name)}));
  const Shard& shard = *shards_.back();
  auto stored = parse_header(shard.file.bytes(), shard.name);
  if (wanted == nullptr) {
    for (auto& tensor : stored) tensors_.insert(std::move(tensor));
    return;
  }
  TensorMap here(std::make_move_iterator(stored.begin()), std::make_move_iterator(stored.end()));
  for (const std::string& tensor : *wanted) {
    auto node = here.extract(tensor);
    if (node.empty()) {
      fail(kExitModel, "{}: tensor {} is missing, though {} says that it is there", name, shown(tensor), kIndexName);
    }
    tensors_.insert(std::move(node));
  }
}

StoredRows MappedCheckpoint::rows(std::string_view name, std::span<const int64_t> shape, int64_t first, int64_t count,
                                  std::vector<std::byte>&) const {
  const StoredTensor* tensor = find(name);
  if (tensor == nullptr) {
    fail(kExitModel, "{}: tensor {} of shape {} is missing; is config.json of the same model?", folder_.string(),
         shown(name), shown(shape));
  }
  if (!std::equal(shape.begin(), shape.end(), tensor->shape.begin(), tensor->shape.end())) {
    fail(kExitModel, "{}: tensor {}: expected shape {}, found {}; is config.json of the same model?", tensor->file,
         shown(name), shown(shape), shown(tensor->shape));
  }
  const RowCount all = *count_rows(shape);  // has a value: opening checked it
  if (first < 0 || count < 0 || first > all.rows - count) {
    fail(kExitModel, "{}: tensor {}: rows [{}, {} + {}) were asked for, it has {}", tensor->file, shown(name), first,
         first, count, all.rows);
  }
  const size_t row_bytes = static_cast<size_t>(all.columns) * bytes_of(tensor->type);
  const auto bytes = tensor->bytes.subspan(static_cast<size_t>(first) * row_bytes, count * row_bytes);
  announce_reading(bytes);
  return {tensor->type, bytes};
}

std::vector<std::string_view> MappedCheckpoint::names() const {
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

size_t MappedCheckpoint::total_bytes() const {
  size_t total = 0;
  for (const auto& [name, tensor] : tensors_) total += tensor.bytes.size();
  return total;
}

// Shard -> its tensors, from the index. Shards are plain file names: an index cannot point out of its folder.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  const nlohmann::json index = parse_strict_json(text, path.string(), 4);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    fail(kExitModel, "{}: weight_map: expected an object from tensor names to files", path.string());
  }
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    const auto* name = shard.get_ptr<const std::string*>();
    if (name == nullptr || name->empty() || *name == "." || *name == ".." ||
        name->find_first_of(std::string_view("/\0", 2)) != std::string::npos) {
      fail(kExitModel, "{}: weight_map: tensor {}: expected the name of a file in this folder, found {}", path.string(),
           shown(tensor), shown(shard.dump()));
    }
    shards[*name].push_back(tensor);
  }
  if (shards.empty()) fail(kExitModel, "{}: weight_map is empty", path.string());
  return shards;
}

bool is_there(const fs::path& path) {
  std::error_code ignored;  // a name that is too long, for example, is not there either
  return fs::exists(path, ignored);
}

void check_shards_exist(const fs::path& folder, const std::map<std::string, std::vector<std::string>>& shards) {
  size_t missing = 0;
  std::string first;
  for (const auto& [name, tensors] : shards) {
    if (is_there(folder / name)) continue;
    if (missing++ == 0) first = shown(name);
  }
  if (missing > 0) {
    fail(kExitModel, "{}: {} of {} files of {} are missing, the first is {}", folder.string(), missing, shards.size(),
         kIndexName, first);
  }
}

}  // namespace

StoredRows Checkpoint::all_rows(std::string_view name, std::span<const int64_t> shape,
                                std::vector<std::byte>& scratch) const {
  const auto count = count_rows(shape);
  if (!count) fail(kExitModel, "tensor {}: shape {} is too large", shown(name), shown(shape));
  return rows(name, shape, 0, count->rows, scratch);
}

std::unique_ptr<Checkpoint> open_checkpoint(const fs::path& folder) {
  auto checkpoint = std::make_unique<MappedCheckpoint>(folder);
  if (is_there(folder / kIndexName)) {
    const auto shards = read_index(folder / kIndexName);
    check_shards_exist(folder, shards);
    for (const auto& [name, tensors] : shards) checkpoint->add_shard(name, &tensors);
  } else if (is_there(folder / kLoneName)) {
    checkpoint->add_shard(kLoneName, nullptr);
  } else {
    fail(kExitModel, "{}: expected {} or {}, found neither (only safetensors checkpoints are read)", folder.string(),
         kIndexName, kLoneName);
  }
  return checkpoint;
}

}  // namespace kt
