// docs/openapi.yaml against the table of routes, by the lines that name paths, methods and who may ask.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <string>

#include "runtime/serve/routes.h"

namespace kt {
namespace {

// "GET /health": who may ask. HEAD goes with GET in the file's words; "/*" is a parameter.
using Operations = std::map<std::string, std::string>;

std::string access_word(Route::Access access) {
  switch (access) {
    case Route::Access::open: return "open";
    case Route::Access::admin: return "admin";
    default: return "user";
  }
}

Operations operations_of_program() {
  Operations operations;
  for (const Route& route : all_routes()) {
    std::string path(route.path);
    if (path.ends_with("/*")) path.replace(path.size() - 1, 1, "{model}");
    for (const char* method : {"GET", "POST", "PUT", "DELETE", "PATCH"}) {
      if (route.methods.find(method) != route.methods.npos)
        operations[std::string(method) + " " + path] = access_word(route.access);
    }
  }
  return operations;
}

Operations operations_of_file() {
  const std::map<std::string, std::string> methods = {{"get", "GET"}, {"post", "POST"}, {"put", "PUT"}};
  std::ifstream file(KTMPI_SOURCE_DIR "/docs/openapi.yaml");
  EXPECT_TRUE(file) << "docs/openapi.yaml is not there";
  Operations operations;
  std::map<std::string, std::string> anchors;  // name: operation
  std::string path, operation;
  for (std::string line; std::getline(file, line) && line != "components:";) {
    if (line.starts_with("  /")) path = line.substr(2, line.rfind(':') - 2);
    const size_t colon = line.find(':');
    if (line.starts_with("    ") && line[4] != ' ' && methods.contains(line.substr(4, colon - 4))) {
      operation = methods.at(line.substr(4, colon - 4)) + " " + path;
      const std::string rest = line.substr(std::min(line.size(), colon + 2));
      operations[operation] = rest.starts_with('*') ? operations[anchors[rest.substr(1)]] : "user";
      if (rest.starts_with('&')) anchors[rest.substr(1)] = operation;
    }
    if (line.starts_with("      <<: *")) operations[operation] = operations[anchors[line.substr(11)]];
    if (line.starts_with("      security: []")) operations[operation] = "open";
    if (line.starts_with("      security: [{admin")) operations[operation] = "admin";
  }
  return operations;
}

TEST(OpenApi, NamesEveryRouteAndNoOther) { EXPECT_EQ(operations_of_file(), operations_of_program()); }

}  // namespace
}  // namespace kt
