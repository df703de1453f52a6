#include "runtime/comm/interfaces.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <thread>

#include "runtime/comm/rendezvous.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Interfaces, AreFoundByName) {
  EXPECT_THAT(own_addresses("lo"), Contains("127.0.0.1"));
  EXPECT_THAT(own_addresses(), Not(Contains(StartsWith("127.")))) << "no other machine reaches it";
}

TEST(Interfaces, ThatAreNotThereAreRefusedSayingWhatIs) {
  EXPECT_THAT(refusal_of([] { own_addresses("lo,eth77"); }, kExitUsage),
              AllOf(HasSubstr("comm-interface: 'eth77'"), HasSubstr("lo (127.0.0.1)")));
}

TEST(Interfaces, AreToldToMpiAndUcxWhereTheEnvironmentSaysNothing) {
  setenv("UCX_NET_DEVICES", "mlx5_0:1", 1);
  unsetenv("OMPI_MCA_btl_tcp_if_include");

  use_interfaces("lo");

  EXPECT_STREQ(std::getenv("OMPI_MCA_btl_tcp_if_include"), "lo");
  EXPECT_STREQ(std::getenv("UCX_NET_DEVICES"), "mlx5_0:1");
  unsetenv("UCX_NET_DEVICES");
  unsetenv("OMPI_MCA_btl_tcp_if_include");
}

TEST(Interfaces, RanksOfTwoMachinesMeetOnTheOneThatIsNamed) {
  const auto transports = make_local_transports(2, {0, 1});
  std::string where;
  std::thread other([&] {
    const std::vector<Descriptor> sockets = meet_at_rank_0(*transports[1], "lo");
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    getpeername(sockets[0].fd(), reinterpret_cast<sockaddr*>(&peer), &size);
    char text[INET6_ADDRSTRLEN] = {};
    if (peer.ss_family == AF_INET)
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(peer).sin_addr, text, sizeof text);
    else
      inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr, text, sizeof text);
    where = text;
  });
  meet_at_rank_0(*transports[0], "lo");
  other.join();

  EXPECT_EQ(where, own_addresses("lo").front());
}

}  // namespace
}  // namespace kt
