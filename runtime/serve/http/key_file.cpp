#include "runtime/serve/http/key_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "runtime/base/error.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

void check_owner_only(const std::string& path) {
  std::error_code ec;
  const fs::perms perms = fs::status(path, ec).permissions();
  if (ec) fail(kExitUsage, "api-key-file {}: {}", path, ec.message());
  if ((perms & (fs::perms::group_all | fs::perms::others_all)) != fs::perms::none)
    fail(kExitUsage, "api-key-file {}: others than its owner have access to it; try chmod 600", path);
}

bool fits_a_header(const std::string& key) {
  return std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c <= '~'; });
}

}  // namespace

std::vector<std::string> read_key_file(const std::string& path) {
  check_owner_only(path);
  std::ifstream file(path);
  std::vector<std::string> keys;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with('#')) continue;
    if (!fits_a_header(line))
      fail(kExitUsage, "api-key-file {}: line {}: expected one key of visible ASCII characters, no blanks", path,
           number);
    keys.push_back(std::move(line));
  }
  if (file.bad() || !file.eof()) fail(kExitUsage, "api-key-file {}: cannot be read", path);
  if (keys.empty()) fail(kExitUsage, "api-key-file {}: holds no key; expected one a line", path);
  return keys;
}

}  // namespace kt
