#include "runtime/client/models.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/client/http_call.h"

namespace kt {

std::string first_model(const Endpoint& endpoint) {
  const HttpAnswer answer = fetch(endpoint, "/v1/models");
  if (!answer.error.empty())
    fail(kExitTryAgain, "{}\n  is a server running there? start one with ktmpi --model DIR", answer.error);
  if (answer.status != 200)
    fail(kExitUsage, "/v1/models: the server answered {}: {}", answer.status, error_message(answer.body));
  using Json = nlohmann::json;
  const Json list = Json::parse(answer.body, nullptr, false);
  const Json models = list.is_object() ? list.value("data", Json()) : Json();
  const Json id =
      models.is_array() && !models.empty() && models[0].is_object() ? models[0].value("id", Json()) : Json();
  if (!id.is_string()) fail(kExitUsage, "/v1/models names no model; give one with --model");
  return id.get<std::string>();
}

}  // namespace kt
