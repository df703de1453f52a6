#include "runtime/recording/counts_file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/recording/torch_file.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kFormat = "ktmpi_expert_counts";
constexpr int64_t kMostLayers = 1 << 12, kMostExperts = 1 << 16;  // larger is no model but a damaged file

void check_size(int64_t layers, int64_t experts, std::string_view where) {
  if (layers < 1 || layers > kMostLayers || experts < 1 || experts > kMostExperts)
    fail(kExitUsage, "{}: counts of {} layers of {} experts; expected at most {} of {}", where, layers, experts,
         kMostLayers, kMostExperts);
}

// To be made after the numbers were found: a file gets no more room than it has numbers.
ExpertCounts no_counts(int64_t layers, int64_t experts) {
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
  check_size(layers, experts, file.where());
  const std::vector<double> numbers = file.numbers(tensor);
  if (numbers.empty()) return;
  if (sum.counts.empty()) sum = no_counts(layers, experts);
  if (layers != sum.layers || experts != sum.experts)
    fail(kExitUsage, "{}: one pass has {} layers of {} experts, another {} of {}", file.where(), sum.layers,
         sum.experts, layers, experts);
  size_t at = 0;
  for (const double n : numbers) {
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

// One object with lists of lists: what is nested deeper is refused before there is a tree of it.
Json parse_flat(std::istream& stream, const std::string& where) {
  return Json::parse(stream, [&](int depth, Json::parse_event_t event, const Json&) {
    if (event == Json::parse_event_t::object_start ? depth > 0 : event == Json::parse_event_t::array_start && depth > 2)
      fail(kExitUsage, "{}: expected one object with a list of rows of counts, found deeper nesting", where);
    return true;
  });
}

int64_t read_size(const Json& file, const char* key, const std::string& where) {
  const Json& size = file.at(key);
  if (!size.is_number_unsigned()) fail(kExitUsage, "{}: {}: {} is no number of {}", where, key, size.dump(), key);
  return size.get<int64_t>();
}

ExpertCounts read_json(std::istream& stream, const std::string& where) {
  try {
    const Json file = parse_flat(stream, where);
    if (file.at(kFormat) != 1)
      fail(kExitUsage, "{}: {} is {}; this program reads 1", where, kFormat, file[kFormat].dump());
    const int64_t layers = read_size(file, "layers", where), experts = read_size(file, "experts", where);
    check_size(layers, experts, where);
    const Json& rows = file.at("counts");
    if (!rows.is_array() || rows.size() != static_cast<size_t>(layers))
      fail(kExitUsage, "{}: expected {} rows of counts", where, layers);
    for (size_t layer = 0; layer < rows.size(); ++layer)
      if (!rows[layer].is_array() || rows[layer].size() != static_cast<size_t>(experts))
        fail(kExitUsage, "{}: row {} of the counts: expected {} numbers", where, layer, experts);
    ExpertCounts counts = no_counts(layers, experts);
    size_t at = 0;
    for (const Json& row : rows) {
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
