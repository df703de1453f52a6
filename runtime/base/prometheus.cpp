#include "runtime/base/prometheus.h"

#include <iterator>

namespace kt {
namespace {

// The format has three escapes: \\ and \n everywhere, \" in label values, whose quotes it would end.
void append_escaped(std::string& out, std::string_view text, bool quoted) {
  for (const char c : text) {
    if (c == '\\' || (quoted && c == '"')) out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
}

}  // namespace

std::string PrometheusText::written(Labels labels) {
  std::string out;
  for (const MetricLabel& label : labels) {
    if (!out.empty()) out += ',';
    out += label.name;
    out += "=\"";
    append_escaped(out, label.value, true);
    out += '"';
  }
  return out;
}

void PrometheusText::begin(std::string_view name, std::string_view type, std::string_view help) {
  family_ = fmt::format("ktmpi_{}", name);
  text_ += fmt::format("# HELP {} ", family_);
  append_escaped(text_, help, false);
  text_ += fmt::format("\n# TYPE {} {}\n", family_, type);
}

void PrometheusText::line(std::string_view suffix, std::string_view labels, std::string_view value) {
  const auto out = std::back_inserter(text_);
  if (labels.empty()) {
    fmt::format_to(out, "{}{} {}\n", family_, suffix, value);
  } else {
    fmt::format_to(out, "{}{}{{{}}} {}\n", family_, suffix, labels, value);
  }
}

void PrometheusText::add(Labels labels, const Histogram& values) {
  const std::string own = written(labels), before_bound = own.empty() ? "" : own + ",";
  uint64_t total = 0;  // buckets count all that is below their bound
  const auto bucket = [&](size_t i, std::string_view bound) {
    total += values.count(i);
    line("_bucket", fmt::format("{}le=\"{}\"", before_bound, bound), std::to_string(total));
  };
  for (size_t i = 0; i < Histogram::kBounds.size(); ++i) bucket(i, fmt::format("{}", Histogram::kBounds[i]));
  bucket(Histogram::kBounds.size(), "+Inf");
  line("_sum", own, fmt::format("{}", values.sum()));
  line("_count", own, std::to_string(total));
}

}  // namespace kt
