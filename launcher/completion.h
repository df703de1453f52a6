#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kt {

// The text for each shell.
std::string bash_completion();
std::string zsh_completion();
std::string fish_completion();

// One way to write an option of serve.
struct Spelling {
  std::string name;        // with its dashes
  std::string_view value;  // "": a flag; FILE and DIR are paths
  std::string_view help;
  std::vector<std::string_view> words;  // the values that work; empty: any
};
std::vector<Spelling> spellings();               // options and their aliases
std::vector<std::string> with_serves_options();  // "serve", "bench step"
std::string join(const std::vector<std::string>& words, std::string_view between = " ");
std::string replaced(std::string text, std::string_view from, std::string_view to);

// Prints the long options that `--help` on stdin has in its lists.
constexpr std::string_view kSedOfHelp = R"(sed -nE 's/^ +(-h \[ )?(--[a-z][a-z-]*).*/\2/p')";

}  // namespace kt
