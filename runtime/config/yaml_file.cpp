#include <yaml-cpp/yaml.h>

#include <fstream>
#include <map>
#include <sstream>

#include "runtime/base/error.h"
#include "runtime/config/sources.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

std::string read_text(const std::filesystem::path& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored))
    fail(kExitUsage, "--config {}: is a folder, not a file", file.string());
  std::ifstream stream(file);
  std::ostringstream text;
  if (!stream || !(text << stream.rdbuf() || stream.eof()))
    fail(kExitUsage, "--config {}: cannot be read; is the path right on this machine?", file.string());
  return text.str();
}

YAML::Node read_document(const std::filesystem::path& file) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(read_text(file));
    if (documents.size() > 1)
      fail(kExitUsage, "{}: expected one YAML document, found {}", file.string(), documents.size());
    return documents.empty() ? YAML::Node() : documents.front();
  } catch (const YAML::Exception& error) {
    fail(kExitUsage, "{}:{}: not valid YAML: {}", file.string(), error.mark.line + 1, error.msg);
  }
}

std::string scalar(const YAML::Node& node, const std::string& where, const std::string& name) {
  if (!node.IsScalar())
    fail(kExitUsage, "{}: {}: expected one value, found {}", where, name,
         node.IsNull()  ? "none"
         : node.IsMap() ? "a map"
                        : "a list");
  return node.Scalar();
}

std::string value_of(const YAML::Node& node, const Option& option, const std::string& where, const std::string& name) {
  if (!node.IsSequence() || !option.is_list()) return scalar(node, where, name);
  std::string items;
  for (const YAML::Node& item : node) {
    if (!items.empty()) items += ',';
    items += scalar(item, where, name);
  }
  return items;
}

}  // namespace

std::vector<Setting> read_yaml(const std::filesystem::path& file) {
  const YAML::Node document = read_document(file);
  if (!document || document.IsNull()) return {};
  if (!document.IsMap()) fail(kExitUsage, "{}: expected lines of the form 'option: value'", file.string());
  std::vector<Setting> settings;
  std::map<const Option*, std::string> seen;
  for (const auto& entry : document) {
    const std::string where = file.string() + ":" + std::to_string(entry.first.Mark().line + 1);
    const std::string name = with_dashes(scalar(entry.first, where, "name of an option"));
    if (name == "config") fail(kExitUsage, "{}: config: one file cannot name another", where);
    const Option* option = find_option(name);
    if (!option)
      fail(kExitUsage, "{}: unknown option '{}'; the nearest one is '{}'", where, name, nearest_option(name));
    if (const auto [first, added] = seen.emplace(option, where); !added)
      fail(kExitUsage, "{}: {}: expected once, found again after {}", where, name, first->second);
    settings.push_back({option, value_of(entry.second, *option, where, name), where});
  }
  return settings;
}

}  // namespace kt
