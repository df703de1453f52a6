#include "runtime/placement/counts_file.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/placement/torch_file.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "ktmpi_expert_counts";
constexpr int64_t kMostLayers = 1 << 12, kMostExperts = 1 << 16;  // larger is no model but a damaged file

ExpertCounts no_counts(int64_t layers, int64_t experts, std::string_view where) {
  if (layers < 1 || layers > kMostLayers || experts < 1 || experts > kMostExperts)
    fail(kExitUsage, "{}: counts of {} layers of {} experts; expected at most {} of {}", where, layers, experts,
         kMostLayers, kMostExperts);
  return {static_cast<int>(layers), static_cast<int>(experts),
          std::vector<uint64_t>(static_cast<size_t>(layers * experts))};
}

// Adds the passes of [layers, experts] or [passes, layers, experts].
void add_tensor(ExpertCounts& sum, const TorchReader& file, const PickleTensor& tensor) {
  const std::vector<int64_t>& shape = tensor.shape;
  if (shape.size() != 2 && shape.size() != 3)
    fail(kExitUsage, "{}: counts of shape [{}]; expected [passes, layers, experts] or [layers, experts]", file.where(),
         fmt::join(shape, ", "));
  const int64_t layers = shape[shape.size() - 2], experts = shape.back();
  if (sum.counts.empty()) sum = no_counts(layers, experts, file.where());
  if (layers != sum.layers || experts != sum.experts)
    fail(kExitUsage, "{}: one pass has {} layers of {} experts, another {} of {}", file.where(), sum.layers,
         sum.experts, layers, experts);
  size_t at = 0;
  for (const double n : file.numbers(tensor)) {
    if (!(n >= 0.0 && n < 0x1p53)) fail(kExitUsage, "{}: {} is no count", file.where(), n);
    sum.counts[at++ % sum.counts.size()] += static_cast<uint64_t>(std::llround(n));
  }
}

void add_records(ExpertCounts& sum, const TorchReader& file, const PickleValue::Sequence& records) {
  for (const PickleValue* record : records) {
    const PickleValue* counts = record->find("global_physical_count");
    const auto* tensor = counts ? counts->as<PickleTensor>() : nullptr;
    if (!tensor) fail(kExitUsage, "{}: one of its records has no tensor \"global_physical_count\"", file.where());
    add_tensor(sum, file, *tensor);
  }
}

ExpertCounts read_torch(const std::filesystem::path& path) {
  const TorchReader file(path);
  const PickleValue *logical = file.root().find("logical_count"), *records = file.root().find("records");
  const PickleValue& whole = logical ? *logical : file.root();
  ExpertCounts sum;
  if (const auto* tensor = whole.as<PickleTensor>())
    add_tensor(sum, file, *tensor);
  else if (const auto* list = records ? records->as<PickleValue::Sequence>() : nullptr)
    add_records(sum, file, *list);
  else
    fail(kExitUsage, "{}: expected a tensor, or a dict with \"logical_count\" or \"records\"", file.where());
  if (sum.counts.empty()) fail(kExitUsage, "{}: it holds no pass", file.where());
  return sum;
}

ExpertCounts read_json(std::istream& stream, const std::string& where) {
  try {
    const Json file = Json::parse(stream);
    if (file.at(kFormat) != 1)
      fail(kExitUsage, "{}: {} is {}; this program reads 1", where, kFormat, file[kFormat].dump());
    ExpertCounts counts = no_counts(file.at("layers").get<int64_t>(), file.at("experts").get<int64_t>(), where);
    const Json& rows = file.at("counts");
    if (!rows.is_array() || rows.size() != static_cast<size_t>(counts.layers))
      fail(kExitUsage, "{}: expected {} rows of counts", where, counts.layers);
    size_t at = 0;
    for (const Json& row : rows) {
      if (!row.is_array() || row.size() != static_cast<size_t>(counts.experts))
        fail(kExitUsage, "{}: row {} of the counts: expected {} numbers", where,
             at / static_cast<size_t>(counts.experts), counts.experts);
      for (const Json& n : row) {
        if (!n.is_number_unsigned()) fail(kExitUsage, "{}: {} is no count", where, n.dump());
        counts.counts[at++] = n.get<uint64_t>();
      }
    }
    return counts;
  } catch (const nlohmann::json::exception& e) {
    fail(kExitUsage, "{}: {}", where, e.what());
  }
}

}  // namespace

ExpertCounts read_counts(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error))
    fail(kExitUsage, "{}: {}", path.string(), error ? error.message() : "not a file");
  std::ifstream stream(path, std::ios::binary);
  const int first = stream.peek();
  if (first == 'P') return read_torch(path);
  if (first == '{') return read_json(stream, path.string());
  fail(kExitUsage,
       "{}: neither JSON with {} nor a file of torch.save (1.6 or later)\n"
       "  /dump_expert_distribution_record writes files that can be given here",
       path.string(), kFormat);
}

void write_counts(const std::filesystem::path& path, const ExpertCounts& counts) {
  Json rows = Json::array();
  for (size_t layer = 0; layer < static_cast<size_t>(counts.layers); ++layer)
    rows.push_back(Json(counts.of_layer(layer)));
  const Json file = {{kFormat, 1}, {"layers", counts.layers}, {"experts", counts.experts}, {"counts", std::move(rows)}};
  const std::filesystem::path part = path.string() + ".part";
  std::ofstream stream(part);
  stream << file.dump() << '\n';
  stream.close();
  std::error_code error;
  if (stream) std::filesystem::rename(part, path, error);
  if (!stream || error)
    fail(kExitUsage, "{}: cannot be written: {}", path.string(), error ? error.message() : std::strerror(errno));
}

}  // namespace kt
