#include <fmt/format.h>

#include <boost/program_options.hpp>

#include "runtime/base/error.h"
#include "runtime/config/sources.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

namespace po = boost::program_options;

// How many words follow the option; the option's description takes the value over.
const po::value_semantic* words_after(const Option& option) {
  if (option.is_flag()) return po::value<std::string>()->implicit_value("true");
  if (option.is_list()) return po::value<std::vector<std::string>>()->multitoken();
  return po::value<std::string>();
}

po::options_description known_options() {
  po::options_description known;
  known.add_options()("config", po::value<std::string>());
  for (const Option& option : all_options()) {
    std::vector<std::string_view> names = split(option.aliases, '|');
    names.push_back(option.name);
    for (std::string_view name : names) known.add_options()(std::string(name).c_str(), words_after(option));
  }
  return known;
}

// Names may be written with underscores; values stay as they are.
std::vector<std::string> normalised(std::span<const std::string> arguments) {
  std::vector<std::string> result(arguments.begin(), arguments.end());
  for (std::string& argument : result) {
    if (!argument.starts_with("--")) continue;
    const size_t end = std::min(argument.find('='), argument.size());
    argument = with_dashes(argument.substr(0, end)) + argument.substr(end);
  }
  return result;
}

po::parsed_options parse(const po::options_description& known, const std::vector<std::string>& arguments) {
  namespace style = po::command_line_style;
  try {
    return po::command_line_parser(arguments)
        .options(known)
        .style(style::allow_long | style::long_allow_adjacent | style::long_allow_next)
        .run();
  } catch (const po::unknown_option& error) {
    const std::string shown = error.get_option_name();  // "--name" or "--name=value"
    const std::string name = shown.substr(2, shown.find('=') - 2);
    fail(kExitUsage, "command line: unknown option --{}; the nearest one is --{}", name, nearest_option(name));
  } catch (const po::error& error) {
    fail(kExitUsage, "command line: {}", error.what());
  }
}

}  // namespace

CommandLine read_command_line(std::span<const std::string> arguments) {
  const po::options_description known = known_options();
  CommandLine result;
  for (const po::option& given : parse(known, normalised(arguments)).options) {
    const std::string value =
        given.value.empty() ? "true" : fmt::format("{}", fmt::join(given.value, ","));  // only a flag has no value
    if (given.string_key.empty())
      fail(kExitUsage, "command line: expected an option that starts with --, found '{}'", value);
    if (given.string_key == "config")
      result.config = value;
    else
      result.settings.push_back({find_option(given.string_key), value, "command line"});
  }
  return result;
}

}  // namespace kt
