#pragma once

#include <string>
#include <string_view>

namespace kt {

// Where a server answers and what it wants to be shown.
struct Endpoint {
  std::string url;      // before every target: "http://HOST[:PORT][/PREFIX]"
  std::string api_key;  // sent as bearer token; "": none
};

// "http://HOST[:PORT][/PREFIX]" or https, also without http://; a PREFIX that ends in /v1 is taken without it, since
// clients are often given such URLs. Throws Error(kExitUsage).
Endpoint parse_url(std::string_view url, std::string_view api_key = {});

}  // namespace kt
