#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/text/json/json_exact.h"

namespace kt {

// The folder of reference data beside the checkout; empty when it is absent.
inline std::filesystem::path shared_folder() {
  const char* given = std::getenv("KTMPI_SHARED");
  const std::filesystem::path folder = given ? given : std::filesystem::path(KTMPI_SOURCE_DIR).parent_path() / "shared";
  return std::filesystem::is_directory(folder) ? folder : std::filesystem::path();
}

#define SKIP_WITHOUT_SHARED_FOLDER() \
  if (shared_folder().empty()) GTEST_SKIP() << "the folder of reference data (KTMPI_SHARED) is absent"

// The records of a JSON Lines file below the shared folder, with their numbers as written.
inline std::vector<nlohmann::ordered_json> read_cases(const std::string& file) {
  std::vector<nlohmann::ordered_json> cases;
  std::ifstream in(shared_folder() / file);
  for (std::string line; std::getline(in, line);) cases.push_back(parse_exact(line));
  return cases;
}

}  // namespace kt
