#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <string>
#include <vector>

namespace kt {

// Listens on every address of `host`, on one port: "localhost" is 127.0.0.1 and ::1, "::" is all addresses of both
// families. Port 0 becomes any that is free on all of them. Throws Error: kExitPort where another program has the port,
// kExitUsage where host or port cannot be had by this program at all.
std::vector<boost::asio::ip::tcp::acceptor> listen_on(boost::asio::io_context& io, const std::string& host, int port);

// Whose a connection is: its IPv4 address, or the /64 network of its IPv6 address, all of which one client can have.
boost::asio::ip::address client_address(const boost::asio::ip::address& from);

}  // namespace kt
