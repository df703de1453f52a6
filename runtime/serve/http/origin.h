#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// What a server may be called: any IP address, "localhost", the address or name that it listens on, and others that it
// was told of. Any other name may be an attacker's that was made to point at this machine (DNS rebinding).
struct OwnNames {
  std::string_view listens_on;
  std::span<const std::string> others;  // in lower case
  bool keys = false;                    // requests have to show a key, which no page of an attacker's has
};

// Whether only this machine reaches what listens there.
bool is_loopback(std::string_view name);

// What this machine is called: its host name, with and without its domain, in lower case.
std::vector<std::string> machine_names();

// Whether a request may name `host` ("localhost:30000") as the server it wants. Open to the network, a server has any
// name; one that only this machine can reach has its own alone.
bool is_own_host(std::string_view host, const OwnNames& names);

// Whether a browser page of `origin` ("http://localhost:30000") was served by us: its host is the request's Host, and
// that is one of our names; a server that is open to the network and asks for keys may have any.
bool is_same_origin(std::string_view origin, std::string_view host, const OwnNames& names);

// Whether `origin` is one of `origins`, which are in lower case.
bool is_allowed_origin(std::string_view origin, std::span<const std::string> origins);

}  // namespace kt
