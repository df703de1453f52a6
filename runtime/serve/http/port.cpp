#include "runtime/serve/http/port.h"

#include <boost/asio/io_context.hpp>

#include "runtime/serve/http/listen.h"
#include "runtime/serve/service.h"

namespace kt {

void check_can_listen(const std::string& host, int port) {
  boost::asio::io_context io;
  listen_on(io, host, port);
}

size_t most_connections() { return HttpConfig{}.max_connections; }

}  // namespace kt
