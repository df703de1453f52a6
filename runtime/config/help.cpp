#include <fmt/format.h>

#include <iterator>

#include "runtime/config/options.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

constexpr GroupTitle kGroups[] = {{Group::model, "Model"},
                                  {Group::endpoint, "Endpoint"},
                                  {Group::scheduling, "Scheduling"},
                                  {Group::ranks, "Ranks"},
                                  {Group::experts, "Experts"}};

void add_line(std::string& text, const Option& option) {
  const std::string_view note = option.status == Status::active ? option.help : option.reason;
  const std::string form = fmt::format("--{}{}{}", option.name, option.is_flag() ? "" : " ", option.value);
  fmt::format_to(std::back_inserter(text), "  {:<42} {}\n", form, note);
}

void add_all(std::string& text, Status status, auto keep) {
  for (const Option& option : all_options())
    if (option.status == status && keep(option)) add_line(text, option);
}

}  // namespace

std::span<const GroupTitle> all_groups() { return kGroups; }

std::string run_config_help() {
  std::string text =
      "Usage: mpirun -np N ktmpi [serve] [--config FILE] [--OPTION VALUE | --OPTION=VALUE ...]\n\n"
      "FILE is YAML with the same names; dashes and underscores are equal; the command line wins over FILE.\n"
      "Relative paths start at the current folder.\n";
  for (const auto& [group, title] : kGroups) {
    fmt::format_to(std::back_inserter(text), "\n{}\n", title);
    add_all(text, Status::active, [group = group](const Option& option) { return option.group == group; });
  }
  const auto any = [](const Option&) { return true; };
  text += "\nNot built yet: refused, so that nothing runs without what was asked for\n";
  add_all(text, Status::not_built, any);
  text += "\nAccepted with a warning: no effect here\n";
  add_all(text, Status::no_meaning, any);
  return text;
}

}  // namespace kt
