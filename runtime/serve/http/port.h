#pragma once

#include <cstddef>
#include <string>

namespace kt {

// Listens as the server would, and stops at once. Throws Error as listen_on does.
void check_can_listen(const std::string& host, int port);

// Connections that the server keeps open at most, each of them a file.
size_t most_connections();

}  // namespace kt
