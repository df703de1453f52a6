#include "runtime/client/event_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace kt {
namespace {

using Events = std::vector<std::string>;

Events read(const std::string& text, size_t piece) {
  Events events;
  EventStream stream([&](std::string_view data) { events.emplace_back(data); });
  for (size_t at = 0; at < text.size(); at += piece) stream.push(std::string_view(text).substr(at, piece));
  return events;
}

TEST(EventStream, ReadsEventsHoweverTheyAreCut) {
  const std::string text =
      ": a comment\n\ndata: {\"a\": 1}\n\nevent: x\nid: 7\ndata:b\r\n\r\ndata: c\rdata: d\r\rdata:\n\ndata: lost";

  for (size_t piece : {size_t{1}, size_t{2}, size_t{3}, text.size()})
    EXPECT_EQ(read(text, piece), (Events{"{\"a\": 1}", "b", "c\nd", ""})) << piece;
}

}  // namespace
}  // namespace kt
