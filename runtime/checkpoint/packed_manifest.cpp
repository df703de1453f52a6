#include <cerrno>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>
#include <system_error>

#include "runtime/base/error.h"
#include "runtime/checkpoint/durable_file.h"
#include "runtime/checkpoint/packed.h"
#include "runtime/checkpoint/strict_json.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kKind = "ktmpi-packed-experts";
constexpr int kVersion = 1;

std::string hex(uint64_t x) { return fmt::format("{:016x}", x); }

// Members of one JSON object, each checked.
struct Reader {
  const json& object;
  std::string where;  // "DIR/manifest.json: "

  const json& at(const char* key) const {
    const auto it = object.is_object() ? object.find(key) : object.end();
    if (!object.is_object() || it == object.end()) fail(kExitModel, "{}{} is missing", where, key);
    return *it;
  }
  int64_t integer(const char* key, int64_t low, int64_t high) const {
    const json& value = at(key);
    if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high)
      fail(kExitModel, "{}{}: expected an integer from {} to {}, found {}", where, key, low, high, value.dump());
    return value.get<int64_t>();
  }
  std::string text(const char* key) const {
    const json& value = at(key);
    if (!value.is_string()) fail(kExitModel, "{}{}: expected a string, found {}", where, key, value.dump());
    return value.get<std::string>();
  }
  uint64_t checksum(const char* key) const {
    const std::string digits = text(key);
    uint64_t x = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), x, 16);
    if (error != std::errc() || end != digits.data() + digits.size() || digits.size() != 16)
      fail(kExitModel, "{}{}: expected 16 hexadecimal digits, found {}", where, key, json(digits).dump());
    return x;
  }
};

PackedManifest parse(const json& file, const std::string& where) {
  const Reader top{file, where};
  if (!file.is_object() || !file.contains("kind") || file["kind"] != kKind)
    fail(kExitModel, "{}not written by `ktmpi convert`", where);
  if (const int64_t version = top.integer("version", 0, INT32_MAX); version != kVersion)
    fail(kExitModel, "{}version {} is not supported, this program reads {}; convert again", where, version, kVersion);
  PackedManifest m;
  const std::string method = top.text("method");
  if (method == info(Format::AMXINT4).name)
    m.format = Format::AMXINT4;
  else if (method == info(Format::AMXINT8).name)
    m.format = Format::AMXINT8;
  else
    fail(kExitModel, "{}method: expected AMXINT4 or AMXINT8, found {}", where, json(method).dump());
  m.architecture = top.text("architecture");
  m.fingerprint = top.text("fingerprint");
  m.hidden = static_cast<int>(top.integer("hidden", 1, 1 << 20));
  m.inter = static_cast<int>(top.integer("inter", 1, 1 << 20));
  m.slice = static_cast<int>(top.integer("slice", kTileK, 1 << 16));
  m.experts = static_cast<int>(top.integer("experts", 1, 1 << 16));
  if (m.slice % kTileK) fail(kExitModel, "{}slice: expected a multiple of {}, found {}", where, kTileK, m.slice);
  const json& layers = top.at("layers");
  if (!layers.is_array() || layers.empty()) fail(kExitModel, "{}layers: expected a list of layers", where);
  for (const json& entry : layers) {
    const Reader layer{entry, where + "layers: "};
    const int number = static_cast<int>(layer.integer("layer", 0, 1 << 16));
    if (!m.layers.empty() && number <= m.layers.back())
      fail(kExitModel, "{}layers: {} does not come after {}", where, number, m.layers.back());
    m.layers.push_back(number);
    if (entry.contains("bytes"))
      m.files[number] = {static_cast<uint64_t>(layer.integer("bytes", 1, INT64_MAX)), layer.checksum("checksum")};
  }
  return m;
}

}  // namespace

bool PackedManifest::same_conversion(const PackedManifest& other) const {
  return format == other.format && architecture == other.architecture && fingerprint == other.fingerprint &&
         hidden == other.hidden && inter == other.inter && slice == other.slice && experts == other.experts &&
         layers == other.layers;
}

fs::path layer_file(const fs::path& folder, int layer) {
  return folder / fmt::format("layer-{:05}.safetensors", layer);
}

std::optional<PackedManifest> read_manifest(const fs::path& folder) {
  const fs::path path = folder / "manifest.json";
  std::error_code error;
  if (!fs::exists(path, error)) return std::nullopt;
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  constexpr size_t kMaxDepth = 4;
  return parse(parse_strict_json(text, path.string(), kMaxDepth), path.string() + ": ");
}

void write_manifest(const fs::path& folder, const PackedManifest& m) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const int layer : m.layers) {
    nlohmann::ordered_json entry{{"layer", layer}};
    if (const auto file = m.files.find(layer); file != m.files.end()) {
      entry["bytes"] = file->second.bytes;
      entry["checksum"] = hex(file->second.checksum);
    }
    layers.push_back(std::move(entry));
  }
  const nlohmann::ordered_json json{{"kind", kKind},
                                    {"version", kVersion},
                                    {"method", info(m.format).name},
                                    {"architecture", m.architecture},
                                    {"fingerprint", m.fingerprint},
                                    {"hidden", m.hidden},
                                    {"inter", m.inter},
                                    {"slice", m.slice},
                                    {"experts", m.experts},
                                    {"layers", std::move(layers)}};
  const std::string text = json.dump(1) + "\n";
  DurableFile file(folder / "manifest.json");
  file.write(std::as_bytes(std::span(text)), 0);
  file.commit();
}

}  // namespace kt
