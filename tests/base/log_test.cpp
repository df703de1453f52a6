#include "runtime/base/log.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "runtime/base/progress.h"

namespace kt {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

constexpr const char* kTime = "^20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\\.[0-9][0-9][0-9]Z";

class Log : public testing::Test {
 protected:
  void SetUp() override { testing::internal::CaptureStderr(); }
  void TearDown() override {
    set_log_style(LogLevel::info, false);
    set_log_name(-1, "ktmpi");
  }
  static std::string written() { return testing::internal::GetCapturedStderr(); }
};

TEST_F(Log, ATextLineHasTimeLevelWriterAndMessage) {
  set_log_name(3, "expert numa1");

  log_warning("{} of {} pages", 1, 2);

  EXPECT_THAT(written(), ContainsRegex(std::string(kTime) + " W \\[r3 expert numa1\\] 1 of 2 pages\n$"));
}

TEST_F(Log, AWriterIsARankARoleOrBoth) {
  set_log_name(0, "");
  log("a");
  set_log_name(-1, "convert");
  log("b");

  const std::string text = written();
  EXPECT_THAT(text, HasSubstr(" I [r0] a\n"));
  EXPECT_THAT(text, HasSubstr(" I [convert] b\n"));
}

TEST_F(Log, EachLevelBringsThoseBeforeIt) {
  for (const LogLevel most : {LogLevel::error, LogLevel::warn, LogLevel::info, LogLevel::debug}) {
    set_log_style(most, false);
    log_error("at {}", static_cast<int>(most));
    log_warning("at {}", static_cast<int>(most));
    log("at {}", static_cast<int>(most));
    log_debug("at {}", static_cast<int>(most));
  }

  const std::string text = written();
  const auto letters_of = [&](char most) {
    std::string letters;
    for (size_t at = 0; (at = text.find(fmt::format("[ktmpi] at {}\n", most), at)) != text.npos; ++at)
      letters += text[at - 2];
    return letters;
  };
  EXPECT_EQ(letters_of('0'), "E");
  EXPECT_EQ(letters_of('1'), "EW");
  EXPECT_EQ(letters_of('2'), "EWI");
  EXPECT_EQ(letters_of('3'), "EWID");
}

TEST_F(Log, AJsonLineIsOneObjectWithTheFieldsThatHaveValues) {
  set_log_style(LogLevel::info, true);
  set_log_name(2, "expert");

  const std::vector<LogField> fields = {{"tokens", 7}, {"ttft_s", 0.25}, {"id", "a\"b"}, {"trace_id", ""}};
  log_line(LogLevel::error, "two\nlines", fields);

  const std::string text = written();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  Json line = Json::parse(text);
  EXPECT_THAT(line["time"].get<std::string>(), ContainsRegex(std::string(kTime) + "$"));
  line.erase("time");
  EXPECT_EQ(line, Json({{"level", "error"},
                        {"rank", 2},
                        {"role", "expert"},
                        {"message", "two\nlines"},
                        {"tokens", 7},
                        {"ttft_s", 0.25},
                        {"id", "a\"b"}}));
}

TEST_F(Log, BytesThatAreNoTextDoNotBreakAJsonLine) {
  set_log_style(LogLevel::info, true);

  log("\xff\x01");

  EXPECT_EQ(Json::parse(written())["message"], "\xef\xbf\xbd\x01");
}

TEST_F(Log, AFailureIsABlockForPeopleOrALineForPrograms) {
  log_failure("model is required\nktmpi serve --help lists the options");
  EXPECT_EQ(written(), "ktmpi: model is required\nktmpi serve --help lists the options\n");

  testing::internal::CaptureStderr();
  set_log_style(LogLevel::error, true);
  log_failure("model is required\nktmpi serve --help lists the options");
  const Json line = Json::parse(written());
  EXPECT_EQ(line["level"], "error");
  EXPECT_EQ(line["message"], "model is required\nktmpi serve --help lists the options");
}

TEST_F(Log, ProgressTellsBytesRateAndTimeLeft) {
  log_progress(LogLevel::info, "loading", 2'000'000'000, 8'000'000'000, 4);
  log_progress(LogLevel::info, "loading", 0, 8'000'000'000, 5);
  log_progress(LogLevel::debug, "not said", 1, 2, 3);

  const std::string text = written();
  EXPECT_THAT(text, HasSubstr("] loading: 2.0 of 8.0 GB, 0.50 GB/s, 12 s left\n"));
  EXPECT_THAT(text, HasSubstr("] loading: 0.0 of 8.0 GB, 0.00 GB/s, ? s left\n"));
  EXPECT_EQ(text.find("not said"), text.npos);
}

}  // namespace
}  // namespace kt
