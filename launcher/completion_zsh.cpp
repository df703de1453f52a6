#include <fmt/format.h>

#include "launcher/commands.h"
#include "launcher/completion.h"

namespace kt {
namespace {

constexpr std::string_view kText = R"zsh(#compdef ktmpi kt
# ktmpi in zsh: `ktmpi completion zsh`.

_ktmpi() {
  local program=$words[1] command=serve
  local -a commands benchmarks options
  commands=(
@COMMANDS@  )
  benchmarks=(
@BENCHMARKS@  )
  options=(
@OPTIONS@  )

  if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then
    _describe -t commands command commands
    return
  fi
  if [[ $words[2] != -* ]]; then
    command=$words[2]
    shift words
    ((CURRENT--))
  fi
  if [[ $command == bench ]]; then
    if ((CURRENT == 2)); then
      _describe -t commands benchmark benchmarks
      return
    fi
    command="bench $words[2]"
    shift words
    ((CURRENT--))
  fi

  case $command in
    @SERVES@) ;;
    completion)
      compadd bash zsh fish
      return
      ;;
    *) options=() ;;
  esac
  if [[ $command != serve ]]; then
    options+=(${(f)"$($program ${=command} --help 2>/dev/null | @SED@)"})
    options=(${(u)options} '*:file:_files')
  fi
  _arguments $options
}

if [[ $funcstack[1] == _ktmpi ]]; then
  _ktmpi "$@"
else
  compdef _ktmpi ktmpi kt
fi
)zsh";

std::string in_quotes(std::string_view text) { return "'" + replaced(std::string(text), "'", "'\\''") + "'"; }

std::string values_of(const Spelling& option) {
  if (!option.words.empty()) return fmt::format("({})", fmt::join(option.words, " "));
  if (option.value == "DIR") return "_files -/";
  if (option.value == "FILE") return "_files";
  return " ";
}

std::string line(const Spelling& option) {
  const std::string help = replaced(replaced(std::string(option.help), "[", "\\["), "]", "\\]");
  const std::string value =
      option.value.empty() ? ""
                           : fmt::format(":{}:{}", replaced(std::string(option.value), ":", "\\:"), values_of(option));
  return fmt::format("    {}\n",
                     in_quotes(fmt::format("{}{}[{}]{}", option.name, value.empty() ? "" : "=", help, value)));
}

std::string lines(std::span<const Command> commands) {
  std::string text;
  for (const Command& c : commands) text += fmt::format("    {}\n", in_quotes(fmt::format("{}:{}", c.name, c.help)));
  return text;
}

}  // namespace

std::string zsh_completion() {
  std::string options;
  for (const Spelling& option : spellings()) options += line(option);
  std::string text(kText);
  text = replaced(text, "@COMMANDS@", lines(all_commands()));
  text = replaced(text, "@BENCHMARKS@", lines(all_benchmarks()));
  text = replaced(text, "@OPTIONS@", options);
  text = replaced(text, "@SERVES@", "'" + join(with_serves_options(), "' | '") + "'");
  return replaced(text, "@SED@", kSedOfHelp);
}

}  // namespace kt
