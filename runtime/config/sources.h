#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/config/options.h"

namespace kt {

// One value as it was written, and where: "command line" or "configs/demo.yaml:7". Items of a list are joined by ','.
struct Setting {
  const Option* option;
  std::string value;
  std::string where;
};

struct CommandLine {
  std::vector<Setting> settings;
  std::string config;  // file of --config, "" if not given
};

// Both throw Error(kExitUsage) for what cannot be read and for unknown names, with the nearest known one.
CommandLine read_command_line(std::span<const std::string> arguments);
std::vector<Setting> read_yaml(const std::filesystem::path& file);

}  // namespace kt
