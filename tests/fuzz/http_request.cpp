// Requests as they come from a connection: whole, or byte by byte, they are the same.
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/serve/http/request_reader.h"
#include "tests/fuzz/require.h"

namespace {

using State = kt::RequestReader::State;

// Status, method, path and body of each request in `bytes`, at most four; the last may be an error.
std::vector<std::string> read(const std::string& bytes, size_t bytes_at_once) {
  kt::HttpConfig limits;
  limits.max_header_bytes = 512;
  limits.max_body_bytes = 256;
  kt::RequestReader reader(limits);
  std::vector<std::string> found;
  std::string buffer;
  for (size_t at = 0; at < bytes.size(); at += bytes_at_once) {
    buffer.append(bytes, at, bytes_at_once);
    State state = reader.read(buffer);
    while (state == State::head) state = reader.read(buffer);
    while (state == State::done && found.size() < 4) {
      const kt::HttpRequest& request = reader.request();
      found.push_back(request.method + ' ' + request.path + ' ' + request.host + ' ' + request.body);
      reader.reset();
      state = reader.read(buffer);
      while (state == State::head) state = reader.read(buffer);
    }
    if (found.size() >= 4) break;  // what comes next may be here already, or not yet
    if (state == State::failed) {
      found.push_back(std::to_string(reader.error().status));
      break;
    }
  }
  return found;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::vector<std::string> whole = read(bytes, size + 1);
  require(read(bytes, 1) == whole, "cuts do not change the requests");
  return 0;
}
