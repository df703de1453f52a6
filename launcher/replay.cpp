#include "launcher/replay.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>

#include "launcher/help_text.h"
#include "runtime/base/error.h"

namespace kt {
namespace po = boost::program_options;

std::optional<po::variables_map> read_options(int argc, char** argv, std::string_view summary,
                                              po::options_description options,
                                              const po::positional_options_description& positional) {
  options.add_options()("help,h", "print this text");
  po::variables_map values;
  try {
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    po::store(po::command_line_parser(argc, argv).options(options).positional(positional).style(style).run(), values);
    if (!values.count("help")) {
      po::notify(values);
      return values;
    }
  } catch (const po::required_option& error) {
    std::string name = error.get_option_name();
    if (positional.max_total_count() > 0 && name == "--" + positional.name_for_position(0)) {  // FILE, as in the usage
      name.erase(0, 2);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
    }
    fail(kExitUsage, "{0}: {1} is missing; ktmpi {0} --help lists the options", argv[0], name);
  } catch (const po::error& error) {
    fail(kExitUsage, "{}: {}; ktmpi {} --help lists the options", argv[0], error.what(), argv[0]);
  }
  std::ostringstream help;
  help << options;
  print_help(fmt::format("{}\n\nOptions:\n{}", summary, help.str()));
  return std::nullopt;
}

int answer_lines(const std::function<nlohmann::ordered_json(std::string_view line)>& answer) {
  if (isatty(STDIN_FILENO)) fmt::print(stderr, "one record in JSON a line; Ctrl-D ends\n");
  for (std::string line; std::getline(std::cin, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    nlohmann::ordered_json out;
    try {
      out = answer(line);
    } catch (const std::exception& error) {
      out = {{"error", error.what()}};
    }
    // In ASCII, since some readers take U+0085 and U+2028 for the end of a line.
    constexpr bool kAscii = true;
    fmt::print("{}\n", out.dump(-1, ' ', kAscii, nlohmann::json::error_handler_t::replace));
    if (std::fflush(stdout) != 0) fail(kExitTryAgain, "stdout: an answer could not be written");
  }
  return kExitOk;
}

}  // namespace kt
