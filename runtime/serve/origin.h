#pragma once

#include <string_view>

namespace kt {

// Whether a browser page of `origin` ("http://localhost:30000") was served by us: its host is the request's Host, and
// that is an IP address, "localhost" or the name we were told to listen on. Any other name may be an attacker's that
// was made to point at this machine (DNS rebinding).
bool is_same_origin(std::string_view origin, std::string_view host, std::string_view own_name);

}  // namespace kt
