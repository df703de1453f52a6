#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

inline constexpr size_t kHistoryLength = 1000;

// The last lines that were typed, oldest first, of a file that only its owner may read: a line each, \ and line breaks
// as \\ and \n. A file that has grown to twice kHistoryLength is cut to it.
std::vector<std::string> read_history(const std::filesystem::path& file);

// False: it cannot be written.
bool add_to_history(const std::filesystem::path& file, std::string_view text);

}  // namespace kt
