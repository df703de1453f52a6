#pragma once

#include <string>
#include <string_view>

namespace kt {

int terminal_width();  // columns of the terminal that stdout is; 0: it is none, or does not say

// Help as it is written, up to 130 columns wide, for fewer of them: paragraphs are filled anew, and a description goes
// on below its beginning. 0 columns: as it is.
std::string fit(std::string_view text, int columns);

void print_help(std::string_view text);  // fit to the terminal, or as it is where there is none

}  // namespace kt
