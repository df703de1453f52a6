// `ktmpi completion SHELL`: what a shell runs to complete ktmpi's command lines. Commands and serve's options come from
// their tables; the options of other commands are those that their --help lists when the shell asks.

#include "launcher/completion.h"

#include <fmt/format.h>

#include <cstdio>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/serve_options.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr std::string_view kHelp =
    "Usage: ktmpi completion bash|zsh|fish\n\n"
    "Prints what completes ktmpi's command lines. Installations have it where shells look; for one session:\n\n"
    "  bash  source <(ktmpi completion bash)\n"
    "  zsh   source <(ktmpi completion zsh), after compinit\n"
    "  fish  ktmpi completion fish | source\n";

}  // namespace

std::vector<Spelling> spellings() {
  std::vector<Spelling> result;
  for (const WrittenOption& option : written_options()) {
    result.push_back({fmt::format("--{}", option.name), option.value, option.help, option.words});
    for (std::string_view alias : option.aliases)
      result.push_back({fmt::format("--{}", alias), option.value, option.help, option.words});
  }
  result.push_back({"--help", "", "print all options", {}});
  return result;
}

std::vector<std::string> with_serves_options() {
  std::vector<std::string> result;
  for (const Command& command : all_commands())
    if (command.takes_serves_options) result.emplace_back(command.name);
  for (const Command& benchmark : all_benchmarks())
    if (benchmark.takes_serves_options) result.push_back(fmt::format("bench {}", benchmark.name));
  return result;
}

std::string join(const std::vector<std::string>& words, std::string_view between) {
  return fmt::format("{}", fmt::join(words, between));
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

int completion_command(int argc, char** argv) {
  const std::string_view shell = argc > 1 ? argv[1] : "--help";
  if (shell == "--help" || shell == "-h")
    print_help(kHelp);
  else if (shell == "bash")
    fmt::print("{}", bash_completion());
  else if (shell == "zsh")
    fmt::print("{}", zsh_completion());
  else if (shell == "fish")
    fmt::print("{}", fish_completion());
  else
    fail(kExitUsage, "completion: expected bash, zsh or fish, found '{}'", shell);
  return kExitOk;
}

}  // namespace kt
