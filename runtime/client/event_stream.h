#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace kt {

// Reads server-sent events (WHATWG HTML, section 9.2) from pieces cut anywhere. Fields other than data mean nothing to
// the APIs that are read here.
class EventStream {
 public:
  explicit EventStream(std::function<void(std::string_view data)> on_data) : on_data_(std::move(on_data)) {}

  void push(std::string_view piece);

 private:
  void take_line(std::string_view line);

  std::function<void(std::string_view data)> on_data_;
  std::string line_;  // not ended yet
  std::string data_;  // of the event under way, one \n after each of its lines
  bool after_cr_ = false;
};

}  // namespace kt
