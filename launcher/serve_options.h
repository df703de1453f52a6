#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/config/options.h"

namespace kt {

// What can be written on serve's command line that does something, for those who tell of it: completions and the page.
struct WrittenOption {
  std::string_view name;
  std::vector<std::string_view> aliases;
  Group group;
  std::string_view value;  // "": a flag
  std::string_view help;
  std::vector<std::string_view> words;  // the values that work; empty: any
};
std::vector<WrittenOption> written_options();

}  // namespace kt
