#pragma once

#include <string>
#include <vector>

namespace kt {

// API keys from a file: one a line; empty lines and lines that begin with '#' are skipped. Throws Error(kExitUsage) for
// a file that others than its owner may read, that holds no key, or a line that no header could carry.
std::vector<std::string> read_key_file(const std::string& path);

}  // namespace kt
