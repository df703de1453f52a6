#include "runtime/config/values.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "runtime/config/words.h"

namespace kt {
namespace {

template <class T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<bool> parse_bool(std::string_view text) {
  if (contains("true|yes|on|1", text)) return true;
  if (contains("false|no|off|0", text)) return false;
  return std::nullopt;
}

template <class T>
std::optional<T> parse_in_range(const Option& option, std::string_view text) {
  const std::optional<T> value = parse_number<T>(text);
  if (!value || !std::isfinite(static_cast<double>(*value)) || *value < option.min || *value > option.max)
    return std::nullopt;
  return value;
}

std::string expected_words(const Option& option, std::string_view value) {
  const auto words = split(option.words, '|');
  std::string list;
  for (std::string_view word : words) list += (list.empty() ? "" : ", ") + std::string(word);
  return fmt::format("one of {} (the nearest is {})", list, nearest(value, words));
}

// One overload for each type of Field: stores the value, or says what was expected.
using Expected = std::optional<std::string>;

Expected store(RunConfig&, const Option&, std::monostate, std::string_view) { return std::nullopt; }

Expected store(RunConfig& config, const Option&, bool RunConfig::*field, std::string_view text) {
  const auto value = parse_bool(text);
  if (!value) return "true or false";
  config.*field = *value;
  return std::nullopt;
}

template <class Int>  // int or std::optional<int>
requires std::is_same_v<Int, int> || std::is_same_v<Int, std::optional<int>> Expected store(RunConfig& config,
                                                                                            const Option& option,
                                                                                            Int RunConfig::*field,
                                                                                            std::string_view text) {
  const auto value = parse_in_range<int>(option, text);
  if (!value) return fmt::format("a whole number from {} to {}", option.min, option.max);
  config.*field = *value;
  return std::nullopt;
}

template <class Double>  // double or std::optional<double>
requires std::is_same_v<Double, double> || std::is_same_v<Double, std::optional<double>> Expected
store(RunConfig& config, const Option& option, Double RunConfig::*field, std::string_view text) {
  const auto value = parse_in_range<double>(option, text);
  if (!value) return fmt::format("a number from {} to {}", option.min, option.max);
  config.*field = *value;
  return std::nullopt;
}

Expected store(RunConfig& config, const Option& option, std::vector<int> RunConfig::*field, std::string_view text) {
  std::vector<int> values;
  for (std::string_view item : split(text, ',')) {
    const auto value = parse_in_range<int>(option, item);
    if (!value) return fmt::format("whole numbers from {} to {}", option.min, option.max);
    values.push_back(*value);
  }
  if (values.empty()) return "at least one whole number";
  config.*field = std::move(values);
  return std::nullopt;
}

// An empty text is refused: it is what an unset shell variable leaves, and an empty key would open the door.
Expected store(RunConfig& config, const Option& option, std::string RunConfig::*field, std::string_view text) {
  if (!option.words.empty() && !contains(option.words, text) && !contains(option.later, text))
    return expected_words(option, text);
  if (text.empty()) return "a text that is not empty";
  config.*field = text;
  return std::nullopt;
}

}  // namespace

std::optional<std::string> assign(RunConfig& config, const Option& option, std::string_view value) {
  return std::visit([&](auto field) { return store(config, option, field, value); }, option.field);
}

bool asks_for_nothing(const Option& option, std::string_view value) {
  return option.is_flag() ? parse_bool(value) == false : contains(option.words, value);
}

}  // namespace kt
