#include <fmt/format.h>

#include "launcher/commands.h"
#include "launcher/completion.h"

namespace kt {
namespace {

constexpr std::string_view kText = R"(# ktmpi in fish: `ktmpi completion fish`.

function __ktmpi_command -d 'the command of the line: serve, plan, "bench step"'
    set -l words (commandline -opc)
    if not set -q words[2]; or string match -q -- '-*' $words[2]
        echo serve
    else if test $words[2] = bench; and set -q words[3]
        echo bench $words[3]
    else
        echo $words[2]
    end
end

function __ktmpi_is
    contains -- (__ktmpi_command) $argv
end

function __ktmpi_first
    test (count (commandline -opc)) -eq 1
end

function __ktmpi_options_of_help
    set -l program (commandline -opc)[1]
    $program (string split ' ' (__ktmpi_command)) --help 2>/dev/null | @SED@
end

complete -c kt -w ktmpi
complete -c ktmpi -n __ktmpi_first -f
complete -c ktmpi -n '__ktmpi_is bench completion' -f
complete -c ktmpi -n '__ktmpi_is completion' -a 'bash zsh fish'
complete -c ktmpi -n 'not __ktmpi_is serve bench completion' -a '(__ktmpi_options_of_help)'
)";

std::string in_quotes(std::string_view text) {
  return "'" + replaced(replaced(std::string(text), "\\", "\\\\"), "'", "\\'") + "'";
}

std::string values_of(const Spelling& option) {
  if (!option.words.empty()) return fmt::format(" -x -a '{}'", fmt::join(option.words, " "));
  if (option.value.empty()) return "";
  if (option.value == "DIR") return " -x -a '(__fish_complete_directories)'";
  return option.value == "FILE" ? " -r -F" : " -x";
}

}  // namespace

std::string fish_completion() {
  std::string text = replaced(std::string(kText), "@SED@", kSedOfHelp);
  for (const Command& command : all_commands())
    text += fmt::format("complete -c ktmpi -n __ktmpi_first -a {} -d {}\n", command.name, in_quotes(command.help));
  for (const Command& benchmark : all_benchmarks())
    text +=
        fmt::format("complete -c ktmpi -n '__ktmpi_is bench' -a {} -d {}\n", benchmark.name, in_quotes(benchmark.help));
  const std::string condition = "__ktmpi_is \"" + join(with_serves_options(), "\" \"") + "\"";
  for (const Spelling& option : spellings())
    text += fmt::format("complete -c ktmpi -n '{}' -l {}{} -d {}\n", condition, option.name.substr(2),
                        values_of(option), in_quotes(option.help));
  return text;
}

}  // namespace kt
