#pragma once

#include <fmt/core.h>

#include <concepts>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "runtime/base/histogram.h"

namespace kt {

struct MetricLabel {
  MetricLabel(std::string_view label, std::string_view text) : name(label), value(text) {}
  MetricLabel(std::string_view label, std::integral auto number) : name(label), value(std::to_string(number)) {}
  std::string_view name;
  std::string value;
};

// Metrics in Prometheus' text format, version 0.0.4. A family begins with its name, which gets ktmpi_ in front, and its
// help; the samples that are added then are its own. Values are written as they are given: numbers, or their text.
class PrometheusText {
 public:
  using Labels = std::initializer_list<MetricLabel>;

  void gauge(std::string_view name, std::string_view help) { begin(name, "gauge", help); }
  void counter(std::string_view name, std::string_view help) { begin(name, "counter", help); }
  void histogram(std::string_view name, std::string_view help) { begin(name, "histogram", help); }

  template <class T>
  void add(Labels labels, const T& value) {
    line("", written(labels), fmt::format("{}", value));
  }
  void add(Labels labels, const Histogram& values);

  // A family of one sample without labels.
  template <class T>
  void gauge(std::string_view name, std::string_view help, const T& value) {
    gauge(name, help);
    add({}, value);
  }
  template <class T>
  void counter(std::string_view name, std::string_view help, const T& value) {
    counter(name, help);
    add({}, value);
  }
  void histogram(std::string_view name, std::string_view help, const Histogram& values) {
    histogram(name, help);
    add({}, values);
  }

  std::string take() { return std::move(text_); }

 private:
  static std::string written(Labels labels);  // `a="1",b="x"`
  void begin(std::string_view name, std::string_view type, std::string_view help);
  void line(std::string_view suffix, std::string_view labels, std::string_view value);

  std::string text_, family_;
};

}  // namespace kt
