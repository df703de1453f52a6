#include "runtime/serve/http/origin.h"

#include <netdb.h>

#include <algorithm>
#include <set>

#include "runtime/base/host_name.h"

namespace kt {
namespace {

std::string_view without_port(std::string_view host) {
  if (host.starts_with('[')) return host.substr(0, host.find(']') + 1);  // [::1]:30000
  return host.substr(0, host.find(':'));
}

bool is_address(std::string_view name) {
  if (name.starts_with('[')) return true;
  return !name.empty() &&
         std::all_of(name.begin(), name.end(), [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

std::string lower_case(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  return lower;
}

bool names_us(std::string_view host, const OwnNames& names) {
  const std::string name = lower_case(without_port(host));
  return is_address(name) || name == "localhost" || name == names.listens_on ||
         std::find(names.others.begin(), names.others.end(), name) != names.others.end();
}

}  // namespace

bool is_loopback(std::string_view name) { return name.starts_with("127.") || name == "localhost" || name == "::1"; }

std::vector<std::string> machine_names() {
  const std::string own = host_name();
  if (own.empty()) return {};
  std::set<std::string> names = {lower_case(own)};
  addrinfo hints{}, *found = nullptr;
  hints.ai_flags = AI_CANONNAME;
  hints.ai_socktype = SOCK_STREAM;
  if (getaddrinfo(own.c_str(), nullptr, &hints, &found) == 0) {
    if (found->ai_canonname) names.insert(lower_case(found->ai_canonname));
    freeaddrinfo(found);
  }
  const std::set<std::string> full = names;
  for (const std::string& name : full) names.insert(name.substr(0, name.find('.')));
  return {names.begin(), names.end()};
}

bool is_own_host(std::string_view host, const OwnNames& names) {
  return host.empty() || !is_loopback(names.listens_on) || names_us(host, names);
}

bool is_same_origin(std::string_view origin, std::string_view host, const OwnNames& names) {
  const size_t scheme_end = origin.find("://");
  if (scheme_end == origin.npos || origin.substr(scheme_end + 3) != host) return false;
  return names_us(host, names) || (names.keys && !is_loopback(names.listens_on));
}

bool is_allowed_origin(std::string_view origin, std::span<const std::string> origins) {
  return std::find(origins.begin(), origins.end(), lower_case(origin)) != origins.end();
}

}  // namespace kt
