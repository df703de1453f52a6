#pragma once

#include <string_view>

namespace kt {

// Whether a request may name `host` ("localhost:30000") as the server it wants, `listens_on` being the address or name
// we were told to listen on. Open to the network, a server has any name. One that only this machine can reach is
// asked by other names when a page had its own name made to point here (DNS rebinding).
bool is_own_host(std::string_view host, std::string_view listens_on);

// Whether a browser page of `origin` ("http://localhost:30000") was served by us: its host is the request's Host, and
// that is an IP address, "localhost" or the name we were told to listen on. Any other name may be an attacker's that
// was made to point at this machine (DNS rebinding).
bool is_same_origin(std::string_view origin, std::string_view host, std::string_view own_name);

}  // namespace kt
