// docs/openapi.yaml, as the program has it, against the table of routes: paths, methods and who may ask.
#include "runtime/serve/http/openapi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>

#include "runtime/serve/http/routes.h"
#include "runtime/serve/json.h"

namespace kt {
namespace {

// "GET /health": who may ask. HEAD goes with GET in the file's words; "*" is a parameter.
using Operations = std::map<std::string, std::string>;

constexpr const char* kMethods[] = {"GET", "POST", "PUT", "DELETE", "PATCH"};

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
    for (const std::string method : kMethods) {
      if (route.methods.find(method) != route.methods.npos)
        operations[method + " " + std::string(route.path)] = access_word(route.access);
    }
  }
  return operations;
}

std::string access_of(const Json& operation) {
  const auto security = operation.find("security");
  if (security == operation.end()) return "user";
  return security->empty() ? "open" : security->front().contains("adminBearer") ? "admin" : "other";
}

Operations operations_of_file() {
  Operations operations;
  const Json file = Json::parse(openapi_json());
  for (const auto& [name, item] : file["paths"].items()) {
    std::string path = name;
    if (const size_t open = path.find('{'); open != path.npos) path.replace(open, path.find('}') + 1 - open, "*");
    for (std::string method : kMethods) {
      std::string key = method;
      std::transform(key.begin(), key.end(), key.begin(), [](char c) { return static_cast<char>(c - 'A' + 'a'); });
      if (item.contains(key)) operations[method + " " + path] = access_of(item[key]);
    }
  }
  return operations;
}

TEST(OpenApi, HasTheVersionOfTheProgram) { EXPECT_EQ(Json::parse(openapi_json())["info"]["version"], KTMPI_VERSION); }

TEST(OpenApi, NamesEveryRouteAndNoOther) { EXPECT_EQ(operations_of_file(), operations_of_program()); }

}  // namespace
}  // namespace kt
