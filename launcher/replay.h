#pragma once

#include <boost/program_options.hpp>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace kt {

// What the commands share that replay text work without a model: JSON Lines in, JSON Lines out.

// The options of a command, without abbreviations; nothing when --help was asked for, which is then printed: `summary`
// and the options. `positional` names the options that may be given without their names. Throws Error(kExitUsage).
std::optional<boost::program_options::variables_map> read_options(
    int argc, char** argv, std::string_view summary, boost::program_options::options_description options,
    const boost::program_options::positional_options_description& positional = {});

// Answers each line of stdin that is not blank with one line on stdout: what `answer` returns for it, or
// {"error": message} where it throws. Returns the exit code.
int answer_lines(const std::function<nlohmann::ordered_json(std::string_view line)>& answer);

}  // namespace kt
