#include "runtime/supervise/port_loan.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>

#include "tests/refusal_of.h"

namespace kt {
namespace {

Descriptor listener() {
  Descriptor socket(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(socket.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(socket.fd(), 8), 0);
  return socket;
}

int port_of(int socket) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return address.sin_port;
}

bool readable(int fd) {
  pollfd watched{fd, POLLIN, 0};
  return poll(&watched, 1, 5000) == 1;
}

// Asks in a thread, as the process of a rank would, and answers.
std::optional<PortLoan> borrow(PortLender& lender, std::span<const int> listeners, int restarts, bool expected = true) {
  std::future<std::optional<PortLoan>> asking = std::async(std::launch::async, borrow_port);
  EXPECT_TRUE(readable(lender.door()));
  EXPECT_EQ(lender.lend(listeners, restarts), expected);
  return asking.get();
}

TEST(PortLoan, LendsSocketsOnWhichBothCanAccept) {
  PortLender lender;
  const Descriptor first = listener(), second = listener();

  const std::optional<PortLoan> loan = borrow(lender, std::array{first.fd(), second.fd()}, 3);

  ASSERT_TRUE(loan);
  EXPECT_EQ(loan->restarts(), 3);
  ASSERT_EQ(loan->listeners().size(), 2U);
  EXPECT_EQ(port_of(loan->listeners()[0]), port_of(first.fd()));
  EXPECT_EQ(port_of(loan->listeners()[1]), port_of(second.fd()));
  for (const int socket : loan->listeners()) close(socket);
}

TEST(PortLoan, TheLenderHearsThatTheBorrowerIsReadyAndThatItIsGone) {
  PortLender lender;
  const Descriptor socket = listener();
  std::optional<PortLoan> loan = borrow(lender, std::array{socket.fd()}, 0);
  EXPECT_EQ(lender.hear(), PortLender::News::none);

  loan->tell_ready();
  EXPECT_TRUE(readable(lender.borrower()));
  EXPECT_EQ(lender.hear(), PortLender::News::ready);

  EXPECT_FALSE(lender.exit_code());
  loan->tell_exit(75);
  EXPECT_EQ(lender.hear(), PortLender::News::none);
  EXPECT_EQ(lender.exit_code(), 75);

  close(loan->listeners().front());
  loan.reset();
  EXPECT_TRUE(readable(lender.borrower()));
  EXPECT_EQ(lender.hear(), PortLender::News::gone);
  EXPECT_EQ(lender.borrower(), -1);
}

TEST(PortLoan, ASecondRank0IsTurnedAwayWhileTheFirstHasThePort) {
  PortLender lender;
  const Descriptor socket = listener();
  const std::optional<PortLoan> loan = borrow(lender, std::array{socket.fd()}, 0);

  const std::string why = refusal_of([&] { borrow(lender, std::array{socket.fd()}, 0, false); }, kExitPort);

  EXPECT_NE(why.find("another rank 0"), why.npos) << why;
  close(loan->listeners().front());
}

TEST(PortLoan, NobodyIsAskedWithoutASupervisorAndAnAbsentOneIsAnError) {
  { const PortLender gone; }
  EXPECT_NE(refusal_of([] { borrow_port(); }, kExitUsage).find("not on this machine"), std::string::npos);

  unsetenv("KTMPI_UP");
  EXPECT_FALSE(borrow_port());
}

}  // namespace
}  // namespace kt
