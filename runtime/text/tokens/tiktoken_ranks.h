#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace kt {

// The tokens of a tiktoken.model file in the order of their ranks: lines "BASE64 RANK". Throws Error(kExitModel) naming
// file and line unless the ranks are 0, 1, 2, ... in some order, all tokens differ, and each byte alone is one of them.
std::vector<std::string> read_tiktoken_ranks(const std::filesystem::path& file);

}  // namespace kt
