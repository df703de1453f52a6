#include "runtime/serve/service.h"

#include <fmt/format.h>

#include <random>

namespace kt {

HttpResponse error_response(const ApiError& error, Dialect dialect) {
  return {.status = error_status(error, dialect),
          .body = error_body(error, dialect),
          .content_type = "application/json",
          .error = error};
}

std::string random_id() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return fmt::format("{:016x}{:016x}", generator(), generator());
}

}  // namespace kt
