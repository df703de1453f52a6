#include "launcher/own_options.h"

#include "runtime/base/error.h"

namespace kt {

namespace po = boost::program_options;

std::vector<std::string> take_own_options(int argc, char** argv, std::string_view command,
                                          const po::options_description& own, po::variables_map& values) {
  try {
    const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
    const po::parsed_options parsed =
        po::command_line_parser(argc, argv).options(own).style(style).allow_unregistered().run();
    po::store(parsed, values);
    po::notify(values);
    return po::collect_unrecognized(parsed.options, po::include_positional);
  } catch (const po::error& error) {
    fail(kExitUsage, "{0}: {1}; ktmpi {0} --help lists the options", command, error.what());
  }
}

}  // namespace kt
