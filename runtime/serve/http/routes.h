#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/serve/http/metrics.h"
#include "runtime/serve/openai/responses_store.h"
#include "runtime/serve/service.h"

namespace kt {

// What handlers look at. Once `engine` is set, nothing here changes but `metrics`.
struct Service {
  const HttpConfig& config;
  Metrics& metrics;
  ResponseStore& responses;
  Engine* engine = nullptr;  // null while the model loads
  ServedModel model;
  int64_t started = 0;  // when the model became ready, seconds since 1970
};

struct Route {
  // Who may ask: anybody; holders of the API key; holders of the admin key where there is one.
  enum class Access : uint8_t { open, user, admin };
  // Quick ones run on the io thread; those that read a body on a worker, and may not touch metrics.
  enum class Where : uint8_t { io, worker };
  using Handler = Outcome (*)(const HttpRequest&, const Service&);

  std::string_view path;     // "*" is any name; at the end, everything below
  std::string_view methods;  // "GET, HEAD": the value of the Allow header
  Access access = Access::user;
  Where where = Where::io;
  bool json_body = false;  // the request must be application/json
  bool while_loading = false;
  Handler handler = nullptr;
  Dialect dialect = Dialect::openai;
};

std::span<const Route> all_routes();

// All that a request's header says: the route, or why there is none for this client. `request.body` is not looked at.
std::variant<const Route*, HttpResponse> find_route(const HttpRequest& request, const Service& service);

// Whose requests they are, for turns and limits: the key's that was shown, if the server knows it, else the address's
// they come from.
std::string client_of(const HttpRequest& request, const HttpConfig& config, const std::string& address);

// Equal in content; the time does not tell how many characters are right.
bool constant_time_equal(std::string_view a, std::string_view b);

}  // namespace kt
