#include "runtime/client/event_stream.h"

namespace kt {

// Lines end with \n, \r\n or \r.
void EventStream::push(std::string_view piece) {
  for (const char c : piece) {
    const bool second_half = after_cr_ && c == '\n';
    after_cr_ = c == '\r';
    if (second_half) continue;
    if (c != '\n' && c != '\r') {
      line_ += c;
      continue;
    }
    take_line(line_);
    line_.clear();
  }
}

void EventStream::take_line(std::string_view line) {
  constexpr std::string_view kField = "data:";
  if (line.empty()) {
    if (data_.empty()) return;
    data_.pop_back();
    on_data_(data_);
    data_.clear();
  } else if (line.starts_with(kField)) {
    line.remove_prefix(kField.size());
    if (line.starts_with(' ')) line.remove_prefix(1);
    (data_ += line) += '\n';
  }
}

}  // namespace kt
