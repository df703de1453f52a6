#include "runtime/serve/schemas/answer_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "runtime/serve/errors.h"
#include "runtime/serve/schemas/schema_writer.h"

namespace kt {
namespace {

// The bound of "{2}", "{2,5}" or "{2,}" at `at`, the larger one; past the digits afterwards.
size_t repeat_count(std::string_view text, size_t& at) {
  size_t count = 0;
  for (size_t number = 0; ++at < text.size() && (text[at] == ',' || (text[at] >= '0' && text[at] <= '9'));) {
    number = text[at] == ',' ? 0 : std::min<size_t>(10 * number + static_cast<size_t>(text[at] - '0'), 1 << 30);
    count = std::max(count, number);
  }
  return count;
}

}  // namespace

void check_repeats(std::string_view expression, const std::string& path) {
  std::vector<size_t> groups = {0};  // parts of the open groups so far, without the latest one
  size_t latest = 0;
  for (size_t at = 0; at < expression.size(); ++at) {
    const char c = expression[at];
    if (c == '{') {
      latest *= std::max<size_t>(repeat_count(expression, at), 1);
      latest = std::min<size_t>(latest, 1 << 30);  // never overflows when multiplied once more
      continue;
    }
    groups.back() += std::exchange(latest, 0);
    if (c == '(') {
      groups.push_back(0);
    } else if (c == ')' && groups.size() > 1) {
      latest = groups.back();
      groups.pop_back();
    } else if (c == '[') {
      latest = 1;
      while (++at < expression.size() && expression[at] != ']') at += expression[at] == '\\';
    } else {
      latest = c != '*' && c != '+' && c != '?' && c != '|';
      at += c == '\\';
    }
  }
  const size_t parts = std::accumulate(groups.begin(), groups.end(), latest);
  if (parts > kMaxRepeatedParts && parts > expression.size())
    throw BadRequest(path, fmt::format("{}: has {} parts when its repeats are written out, more than the limit of {}",
                                       path, parts, kMaxRepeatedParts));
}

void check_expression(std::string_view expression, const std::string& path) {
  if (expression.size() > kMaxExpressionBytes)
    throw BadRequest(path, fmt::format("{}: {} bytes are more than the limit of {} of a regular expression", path,
                                       expression.size(), kMaxExpressionBytes));
  check_repeats(expression, path);
}

Json checked_schema(const Json& schema, const std::string& path, SchemaUse use) {
  static const Json kObject = {{"type", "object"}};
  SchemaReader reader(schema, path);
  SchemaPlaces places = {reader.root()};
  if (use.an_object) places.push_back({&kObject, "#(an object)"});
  return SchemaWriter(reader, use.bare_strings).write_root(places);
}

}  // namespace kt
