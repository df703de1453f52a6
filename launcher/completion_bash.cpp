#include <fmt/format.h>

#include "launcher/commands.h"
#include "launcher/completion.h"

namespace kt {
namespace {

constexpr std::string_view kText = R"bash(# ktmpi in bash: `ktmpi completion bash`.

_ktmpi_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2"); }
_ktmpi_paths() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen "$1" -- "$2"); }

_ktmpi_value() { # OPTION WORD: what may follow an option of serve; 1: no value does
  case $1 in
@VALUES@    *) return 1 ;;
  esac
}

_ktmpi() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=serve options=''
  COMPREPLY=()
  if [[ $word == = ]]; then # --option=value is three words
    word=''
  elif [[ $before == = ]]; then
    before=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if ((COMP_CWORD == 1)) && [[ $word != -* ]]; then
    _ktmpi_words '@COMMANDS@' "$word"
    return
  fi
  if [[ ${COMP_WORDS[1]} != -* ]]; then command=${COMP_WORDS[1]}; fi
  if [[ $command == bench ]]; then
    if ((COMP_CWORD == 2)); then
      _ktmpi_words '@BENCHMARKS@' "$word"
      return
    fi
    command="bench ${COMP_WORDS[2]}"
  fi

  case $command in
    @SERVES@)
      if _ktmpi_value "$before" "$word"; then return; fi
      options='@OPTIONS@'
      ;;
    completion) options='bash zsh fish' ;;
    *)
      if [[ $word != -* ]]; then
        _ktmpi_paths -f "$word"
        return
      fi
      ;;
  esac
  # shellcheck disable=SC2086  # a command may be two words
  if [[ $command != serve ]]; then options+=" $("${COMP_WORDS[0]}" $command --help 2>/dev/null | @SED@)"; fi
  _ktmpi_words "$options" "$word"
}
complete -F _ktmpi ktmpi kt
)bash";

std::string answer(const Spelling& option) {
  if (!option.words.empty()) return fmt::format("_ktmpi_words '{}' \"$2\" ", fmt::join(option.words, " "));
  if (option.value == "DIR") return "_ktmpi_paths -d \"$2\" ";
  if (option.value == "FILE") return "_ktmpi_paths -f \"$2\" ";
  return "";
}

}  // namespace

std::string bash_completion() {
  std::string values, options, commands, benchmarks;
  for (const Spelling& option : spellings()) {
    options += option.name + ' ';
    if (!option.value.empty()) values += fmt::format("    {}) {};;\n", option.name, answer(option));
  }
  for (const Command& command : all_commands()) commands += fmt::format("{} ", command.name);
  for (const Command& benchmark : all_benchmarks()) benchmarks += fmt::format("{} ", benchmark.name);
  std::string text(kText);
  text = replaced(text, "@VALUES@", values);
  text = replaced(text, "@OPTIONS@", options);
  text = replaced(text, "@COMMANDS@", commands);
  text = replaced(text, "@BENCHMARKS@", benchmarks);
  text = replaced(text, "@SERVES@", "'" + join(with_serves_options(), "' | '") + "'");
  return replaced(text, "@SED@", kSedOfHelp);
}

}  // namespace kt
