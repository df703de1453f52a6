#include "runtime/base/prometheus.h"

#include <gmock/gmock.h>

namespace kt {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

TEST(PrometheusText, AFamilyIsItsHelpItsTypeAndItsSamples) {
  PrometheusText text;
  text.gauge("requests", "Requests in the batch", 3);
  text.counter("seconds_total", "Time of a rank");
  text.add({{"rank", 0}, {"phase", "decode"}}, 0.5);
  text.add({{"rank", size_t{1}}, {"phase", std::string("prefill")}}, uint64_t{1} << 63);
  text.gauge("rates", "Nothing was measured");

  EXPECT_EQ(text.take(),
            "# HELP ktmpi_requests Requests in the batch\n"
            "# TYPE ktmpi_requests gauge\n"
            "ktmpi_requests 3\n"
            "# HELP ktmpi_seconds_total Time of a rank\n"
            "# TYPE ktmpi_seconds_total counter\n"
            "ktmpi_seconds_total{rank=\"0\",phase=\"decode\"} 0.5\n"
            "ktmpi_seconds_total{rank=\"1\",phase=\"prefill\"} 9223372036854775808\n"
            "# HELP ktmpi_rates Nothing was measured\n"
            "# TYPE ktmpi_rates gauge\n");
}

TEST(PrometheusText, LabelValuesEscapeQuotesBackslashesAndLineEnds) {
  PrometheusText text;
  text.gauge("model", "Served");
  text.add({{"name", "a\"b\\c\nd"}, {"empty", ""}, {"umlaut", "\u00fc {},="}}, 1);

  EXPECT_THAT(text.take(), EndsWith("\nktmpi_model{name=\"a\\\"b\\\\c\\nd\",empty=\"\",umlaut=\"\u00fc {},=\"} 1\n"));
}

TEST(PrometheusText, HelpEscapesBackslashesAndLineEndsAndKeepsItsQuotes) {
  PrometheusText text;
  text.gauge("x", "a \"b\" \\ c\nd {}");

  EXPECT_THAT(text.take(), StartsWith("# HELP ktmpi_x a \"b\" \\\\ c\\nd {}\n# TYPE"));
}

TEST(PrometheusText, AHistogramsBucketsCountAllBelowThem) {
  Histogram values;
  for (const double seconds : {0.0005, 0.003, 0.003, 1000.0}) values.record(seconds);
  PrometheusText text;
  text.histogram("plain_seconds", "Without labels", values);
  text.histogram("seconds", "By phase");
  text.add({{"phase", "mixed"}}, values);
  const std::string written = text.take();

  EXPECT_THAT(written, HasSubstr("# TYPE ktmpi_plain_seconds histogram\n"
                                 "ktmpi_plain_seconds_bucket{le=\"0.001\"} 1\n"
                                 "ktmpi_plain_seconds_bucket{le=\"0.002\"} 1\n"
                                 "ktmpi_plain_seconds_bucket{le=\"0.005\"} 3\n"));
  EXPECT_THAT(written, HasSubstr("ktmpi_plain_seconds_bucket{le=\"500\"} 3\n"
                                 "ktmpi_plain_seconds_bucket{le=\"+Inf\"} 4\n"
                                 "ktmpi_plain_seconds_sum 1000.0065\n"
                                 "ktmpi_plain_seconds_count 4\n"));
  EXPECT_THAT(written, HasSubstr("ktmpi_seconds_bucket{phase=\"mixed\",le=\"0.005\"} 3\n"));
  EXPECT_THAT(written, EndsWith("ktmpi_seconds_sum{phase=\"mixed\"} 1000.0065\n"
                                "ktmpi_seconds_count{phase=\"mixed\"} 4\n"));
}

}  // namespace
}  // namespace kt
