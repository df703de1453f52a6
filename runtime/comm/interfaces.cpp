#include "runtime/comm/interfaces.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "runtime/base/error.h"
#include "runtime/base/host_name.h"

namespace kt {
namespace {

struct OwnAddress {
  std::string interface, text;
  bool loopback;
};

// Without those that need a scope.
std::vector<OwnAddress> all_addresses() {
  std::vector<OwnAddress> found;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return found;
  for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP)) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (i->ifa_addr->sa_family == AF_INET)
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr, text, sizeof text);
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(i->ifa_addr);
    if (i->ifa_addr->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
      inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
    if (*text) found.push_back({i->ifa_name, text, (i->ifa_flags & IFF_LOOPBACK) != 0});
  }
  freeifaddrs(list);
  return found;
}

[[noreturn]] void refuse(const std::string& name, const std::vector<OwnAddress>& all) {
  std::string known;
  for (const OwnAddress& a : all) known += fmt::format("{}{} ({})", known.empty() ? "" : ", ", a.interface, a.text);
  fail(kExitUsage, "comm-interface: '{}' is no interface of {} that is up and has an address\n  there are: {}", name,
       host_name(), known.empty() ? "none" : known);
}

}  // namespace

std::vector<std::string> own_addresses(std::string_view names) {
  const std::vector<OwnAddress> all = all_addresses();
  std::vector<std::string> found;
  if (names.empty()) {
    for (const OwnAddress& a : all)
      if (!a.loopback) found.push_back(a.text);
    return found;
  }
  std::istringstream list{std::string(names)};
  for (std::string name; std::getline(list, name, ',');) {
    const size_t before = found.size();
    for (const OwnAddress& a : all)
      if (a.interface == name) found.push_back(a.text);
    if (found.size() == before) refuse(name, all);
  }
  return found;
}

void use_interfaces(std::string_view names) {
  if (names.empty()) return;
  own_addresses(names);
  const std::string list(names);
  for (const char* variable : {"OMPI_MCA_btl_tcp_if_include", "UCX_NET_DEVICES"})
    setenv(variable, list.c_str(), /*overwrite=*/0);
  setenv("NCCL_SOCKET_IFNAME", ("=" + list).c_str(), /*overwrite=*/0);  // without "=": what begins so
}

}  // namespace kt
