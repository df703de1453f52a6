#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/client/endpoint.h"

namespace kt {

// The models that the server names in /v1/models. Throws Error when there is no server, or none that names one.
std::vector<std::string> model_names(const Endpoint& endpoint);
std::string first_model(const Endpoint& endpoint);

// Whether the server can tell how far a prompt is: those that cannot may refuse to be asked.
bool reports_progress(const Endpoint& endpoint);

// How long, in seconds, to wait for a server.
struct Patience {
  double absent = 10;    // of which nothing is heard
  double loading = 600;  // that answers 503
};

// Returns when the server answers anything but 503; `say` gets what it waits for whenever that changes. Throws
// Error(kExitTryAgain) when patience is at its end.
void wait_for_server(const Endpoint& endpoint, Patience patience, const std::function<void(std::string_view)>& say);

}  // namespace kt
