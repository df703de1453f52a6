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

// Sockets that listen already, as acceptors that own them. Other processes may accept on the same ones.
std::vector<boost::asio::ip::tcp::acceptor> listen_on(boost::asio::io_context& io, const std::vector<int>& sockets);

// Ends accepting for this process alone: Asio's close would leave a socket that another process has too in this one's
// epoll.
void close_own(boost::asio::ip::tcp::acceptor& acceptor);

// Each connection is a file, and the usual soft limit is far below the server's. Where the hard limit is too, those
// beyond it wait to be accepted.
void allow_connections(size_t count);

// Whose a connection is: its IPv4 address, or the /64 network of its IPv6 address, all of which one client can have.
boost::asio::ip::address client_address(const boost::asio::ip::address& from);

}  // namespace kt
