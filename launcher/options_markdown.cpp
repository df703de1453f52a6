#include "launcher/options_markdown.h"

#include <fmt/format.h>

#include "launcher/completion.h"
#include "launcher/serve_options.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

// As text of a table's cell.
std::string plain(std::string_view text) {
  std::string cell(text);
  for (const char* special : {"\\", "|", "*", "_", "<", "`"})
    cell = replaced(cell, special, std::string("\\") + special);
  return cell;
}

std::string code(std::string_view text) { return fmt::format("`{}`", text); }

// Words that other builds of the program know count too: the text is the same for all of them.
std::string words_of(const WrittenOption& option) {
  std::vector<std::string> words;
  for (const std::string_view word : option.words) words.push_back(code(word));
  if (const Option* entry = find_option(option.name))
    for (const std::string_view word : split(entry->later, '|')) words.push_back(code(word));
  return words.empty() ? "" : "<br>" + join(words, ", ");
}

std::string row(const WrittenOption& option) {
  std::string names = code(fmt::format("--{}{}{}", option.name, option.value.empty() ? "" : " ", option.value));
  for (const std::string_view alias : option.aliases) names += ", " + code(fmt::format("--{}", alias));
  return fmt::format("| {} | {}{} |\n", names, plain(option.help), words_of(option));
}

}  // namespace

std::string options_markdown() {
  std::vector<std::string> commands;
  for (const std::string& name : with_serves_options()) commands.push_back(code("ktmpi " + name));
  std::string text = fmt::format(
      "# Options\n\nOf {}, and keys of the YAML file that `--config` names;\n"
      "the command line wins over it. Dashes and underscores are equal. `ktmpi man --markdown` prints this page, from "
      "the\n"
      "table that reads the options. The other commands' options: `ktmpi COMMAND --help`.\n",
      join(commands, ", "));
  constexpr std::string_view kTable = "| option | what it is, and the words that it takes |\n| --- | --- |\n";
  for (const auto& [group, title] : all_groups()) {
    text += fmt::format("\n## {}\n\n{}", title, kTable);
    for (const WrittenOption& option : written_options())
      if (option.group == group) text += row(option);
  }
  text += "\n## Without effect\n\nAccepted with a warning.\n\n| option | why |\n| --- | --- |\n";
  for (const Option& option : all_options())
    if (option.status == Status::no_meaning)
      text += fmt::format("| {} | {} |\n", code(fmt::format("--{}", option.name)), plain(option.reason));
  return text;
}

}  // namespace kt
