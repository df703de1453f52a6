#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/config/run_config.h"

namespace kt {

enum class Status : uint8_t {
  active,
  no_meaning,  // another runtime's option that nothing here corresponds to: accepted with one warning line
  not_built,   // refused by name, unless its value asks for nothing
};

enum class Group : uint8_t { model, endpoint, scheduling, ranks, experts };
struct GroupTitle {
  Group group;
  std::string_view title;
};
std::span<const GroupTitle> all_groups();  // in the order of --help

// Where an option's value goes; monostate: nothing reads it.
using Field = std::variant<std::monostate, bool RunConfig::*, int RunConfig::*, std::optional<int> RunConfig::*,
                           double RunConfig::*, std::optional<double> RunConfig::*, std::string RunConfig::*,
                           std::vector<int> RunConfig::*>;

// One option, from which --help, the command line, YAML keys and /get_server_info come.
struct Option {
  std::string_view name;
  std::string_view aliases = "";  // other names, split by '|'
  Status status = Status::active;
  Group group = Group::model;
  std::string_view value = "";  // what --help shows for the value; "": a flag
  std::string_view help = "";
  Field field = {};
  double min = std::numeric_limits<int>::min();  // of a number, or of each number of a list
  double max = std::numeric_limits<int>::max();
  std::string_view words = "";   // the values that work, split by '|'; "": any. not_built: values that ask for nothing
  std::string_view later = "";   // further values that are known by name but not built
  std::string_view reason = "";  // why it has no meaning here, or what is not built
  bool secret = false;           // shown as "***"

  bool is_flag() const { return value.empty(); }
  bool is_list() const { return std::holds_alternative<std::vector<int> RunConfig::*>(field); }
};

std::span<const Option> all_options();
const Option* find_option(std::string_view name);  // by name or alias, with dashes; nullptr if unknown
std::string_view nearest_option(std::string_view name);

}  // namespace kt
