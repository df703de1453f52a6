#include "runtime/client/models.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/client/http_call.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

// The strings that the entries of /v1/models have under `name`.
std::vector<std::string> members_of_models(const HttpAnswer& answer, const char* name) {
  const Json list = Json::parse(answer.body, nullptr, false);
  const Json models = list.is_object() ? list.value("data", Json()) : Json();
  std::vector<std::string> members;
  if (models.is_array())
    for (const Json& model : models)
      if (const Json member = model.is_object() ? model.value(name, Json()) : Json(); member.is_string())
        members.push_back(member.get<std::string>());
  return members;
}

}  // namespace

std::vector<std::string> model_names(const Endpoint& endpoint) {
  const HttpAnswer answer = fetch(endpoint, "/v1/models");
  if (!answer.error.empty())
    fail(kExitTryAgain, "{}\n  is a server running there? start one with ktmpi --model DIR", answer.error);
  if (answer.status != 200)
    fail(kExitUsage, "{}/v1/models: the server answered {}: {}", endpoint.url, answer.status,
         error_message(answer.body));
  std::vector<std::string> names = members_of_models(answer, "id");
  if (names.empty()) fail(kExitUsage, "{}/v1/models names no model; give one with --model", endpoint.url);
  return names;
}

std::string first_model(const Endpoint& endpoint) { return model_names(endpoint).front(); }

bool reports_progress(const Endpoint& endpoint) {
  const std::vector<std::string> owners = members_of_models(fetch(endpoint, "/v1/models"), "owned_by");
  return !owners.empty() && std::all_of(owners.begin(), owners.end(), [](const std::string& owner) {
    return owner == "ktmpi" || owner == "llamacpp";
  });
}

void wait_for_server(const Endpoint& endpoint, Patience patience, const std::function<void(std::string_view)>& say) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kPause{300};
  const Clock::time_point start = Clock::now();
  std::string said;
  while (true) {
    const HttpAnswer answer = fetch(endpoint, "/v1/models");
    const bool absent = !answer.error.empty();
    if (!absent && answer.status != 503) return;
    const std::string what =
        absent ? answer.error
               : fmt::format("{}: the server answered 503: {}", endpoint.url, error_message(answer.body));
    const double waited = std::chrono::duration<double>(Clock::now() - start).count();
    const double most = absent ? patience.absent : patience.loading;
    if (waited >= most)
      fail(kExitTryAgain, "{}\n  {}", what,
           absent ? "is a server running there? start one with ktmpi --model DIR"
                  : fmt::format("still after {:.0f} s; --wait waits longer", waited));
    if (what != said) say(fmt::format("{}; waiting up to {:.0f} s", what, most - waited));
    said = what;
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace kt
