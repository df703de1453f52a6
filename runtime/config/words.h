#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

std::vector<std::string_view> split(std::string_view text, char separator);  // "" gives no words
bool contains(std::string_view words, std::string_view word);                // words: split by '|'
std::string with_dashes(std::string_view name);

// The candidate with the least edit distance, letter case aside; the first of equals. "" if there are none.
std::string_view nearest(std::string_view word, std::span<const std::string_view> candidates);

}  // namespace kt
