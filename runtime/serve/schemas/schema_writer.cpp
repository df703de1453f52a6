#include "runtime/serve/schemas/schema_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "runtime/serve/schemas/schema_ends.h"

namespace kt {
namespace {

constexpr size_t kMaxWritten = 10000;     // schemas inside each other
constexpr size_t kShort = 64;             // bytes that are repeated rather than referred to
constexpr uint64_t kFewCharacters = 100;  // see string()
constexpr long double kWidest = 1e15L;    // numbers whose digits a double holds
constexpr long double kFinest = 2e-6L;    // they are written with six digits behind the point
constexpr long double kMaxMultiples = 10000;

bool is_any(const Json& schema) { return schema == true || (schema.is_object() && schema.empty()); }

bool lists(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

Json SchemaWriter::write_root(const SchemaPlaces& places) {
  Written root = write(places);
  if (!root) reader_.wrong(places.front(), "", "no value is admitted");
  Json definitions = Json::object();
  for (const auto& [key, definition] : definitions_) {
    if (definition.referred && definition.written) definitions[definition.name] = *definition.written;
    if (root->contains("$ref") && (*root)["$ref"] == "#/$defs/" + definition.name) *root = *definition.written;
  }
  if (!definitions.empty()) (*root)["$defs"] = std::move(definitions);
  std::optional<Json> ending = without_endless(std::move(*root));
  if (!ending) reader_.wrong(places.front(), "", "no value is admitted that ever ends");
  return std::move(*ending);
}

SchemaWriter::Written SchemaWriter::write(SchemaPlaces places) {
  SchemaPlaces said;
  std::vector<std::string> pointers;
  for (const SchemaPlace& place : places) {
    const SchemaPlace target = reader_.target(place);
    if (is_any(*target.schema) || lists(pointers, target.pointer)) continue;
    pointers.push_back(target.pointer);
    said.push_back(target);
  }
  if (said.empty()) return Json::object();

  std::sort(pointers.begin(), pointers.end());
  const auto [found, is_new] = definitions_.try_emplace(fmt::format("{}", fmt::join(pointers, "\n")));
  Definition& definition = found->second;
  const auto reference = [&] {
    definition.referred = true;
    return Json{{"$ref", "#/$defs/" + definition.name}};
  };
  if (!is_new) {
    if (definition.open) return reference();
    if (!definition.written || dump(*definition.written).size() <= kShort) return definition.written;
    return reference();
  }
  if (++count_ > kMaxWritten) reader_.refuse(said.front(), "$ref", ": the schema is too large when written out");
  definition.name = fmt::format("d{}", count_);
  definition.written = write(reader_.read(said));
  definition.open = false;
  if (definition.referred && definition.written) return reference();  // it refers to itself
  return definition.written;
}

SchemaWriter::Written SchemaWriter::write(const Choice& choice) {
  if (!choice) return Json::object();
  Json values = Json::array(), branches = Json::array();
  for (const Values& one : *choice) {
    if (one.only) {
      if (one.only->is_binary()) reader_.refuse(one.place, "enum", ": a number of more than 19 digits");
      values.push_back(*one.only);
    } else if (Written branch = write(one)) {
      branches.push_back(std::move(*branch));
    }
  }
  if (!values.empty()) branches.push_back({{"enum", std::move(values)}});
  if (branches.empty()) return std::nullopt;
  return branches.size() == 1 ? std::move(branches.front()) : Json{{"anyOf", std::move(branches)}};
}

SchemaWriter::Written SchemaWriter::write(const Values& values) {
  switch (values.type) {
    case kNullType: return Json{{"type", "null"}};
    case kBooleanType: return Json{{"type", "boolean"}};
    case kNumberType: return number(values);
    case kStringType: return string(values);
    case kArrayType: return array(values);
    default: return object(values);
  }
}

SchemaWriter::Written SchemaWriter::number(const Values& v) {
  if (v.integer) {
    Json written = {{"type", "integer"}};
    std::optional<long double> low, high;
    if (v.least)
      low = std::floor(v.least->value) == v.least->value ? v.least->value + v.least->out : std::ceil(v.least->value);
    if (v.most)
      high = std::floor(v.most->value) == v.most->value ? v.most->value - v.most->out : std::floor(v.most->value);
    constexpr long double kLowest = std::numeric_limits<int64_t>::min(), kHighest = std::numeric_limits<int64_t>::max();
    if ((low && *low > kHighest) || (high && *high < kLowest)) reader_.refuse(v.place, "minimum", ": beyond 64 bits");
    if (low && high && *low > *high) return std::nullopt;
    if (low) written["minimum"] = static_cast<int64_t>(std::max(*low, kLowest));
    if (high) written["maximum"] = static_cast<int64_t>(std::min(*high, kHighest));
    if (v.multiple_of == 1) return written;
    const long double step = static_cast<long double>(v.multiple_of);
    if (low.has_value() != high.has_value() || (low && *high - *low >= kMaxMultiples) || v.multiple_of > 1024)
      reader_.refuse(v.place, "multipleOf",
                     fmt::format(" beside bounds, unless both are there and at most {} apart", kMaxMultiples));
    if (low && std::floor(*high / step) * step < *low) return std::nullopt;
    written["multipleOf"] = v.multiple_of;
    return written;
  }

  if (!v.least && !v.most) return Json{{"type", "number"}};
  if (v.least && v.most && v.least->value == v.most->value)
    return Json{{"enum", Json::array({static_cast<double>(v.least->value)})}};
  if ((v.least && v.least->value > kWidest) || (v.most && v.most->value < -kWidest))
    reader_.refuse(v.place, v.least ? "minimum" : "maximum", ": numbers of more than 15 digits");
  Json written = {{"type", "number"}};
  const auto bound = [&](const NumberBound& given, const char* in, const char* out) {
    const long double value = std::clamp(given.value, -kWidest, kWidest);
    const bool excluded = given.out && value == given.value;
    written[excluded ? out : in] = static_cast<double>(value);
  };
  if (v.least) bound(*v.least, "minimum", "exclusiveMinimum");
  if (v.most) bound(*v.most, "maximum", "exclusiveMaximum");
  if (v.least && v.most && v.most->value - v.least->value < kFinest)
    reader_.refuse(v.place, "minimum", " that close to \"maximum\": numbers have six digits behind the point");
  return written;
}

// A string of few characters is an expression of them, which costs the engine 0.03 ms a token; as a repeat it is 1.5
// (250,000 tokens). Beyond some hundred characters it is the other way round.
SchemaWriter::Written SchemaWriter::string(const Values& v) {
  Json written = {{"type", "string"}};
  const bool limited = v.max_count != Values::kNoLimit;
  const size_t most = limited ? v.max_count : SchemaPattern::kUnbounded;
  if (v.pattern) {
    SchemaPattern pattern = *v.pattern;
    if (!pattern.limit_length(v.min_count, most))
      reader_.refuse(v.place, limited ? "maxLength" : "minLength", " beside this \"pattern\" or \"format\"");
    return string_of(pattern);
  } else if (v.min_count <= kFewCharacters && (limited ? v.max_count <= kFewCharacters : v.min_count > 0)) {
    return string_of(SchemaPattern::any_of_length(v.min_count, most));
  } else {
    constexpr uint64_t kLongest = 1 << 30;
    if (v.min_count > kLongest) reader_.refuse(v.place, "minLength", ": no answer is that long");
    if (v.min_count > 0) written["minLength"] = v.min_count;
    if (v.max_count < kLongest) written["maxLength"] = v.max_count;
  }
  return written;
}

Json SchemaWriter::string_of(const SchemaPattern& pattern) const {
  Json written = {{"type", "string"}, {"pattern", pattern.in_json()}};
  if (!bare_strings_) return written;
  try {
    written["bare"] = pattern.bare(CharacterSet({{'<', '<'}}));
  } catch (const std::invalid_argument&) {  // then it has none
  }
  return written;
}

SchemaWriter::Written SchemaWriter::array(const Values& v) {
  constexpr uint64_t kMost = 1 << 30;
  Json first = Json::array();
  uint64_t most = v.max_count;
  for (size_t i = 0; i < v.first.size() && first.size() < most; ++i) {
    if (Written item = write(v.first[i]))
      first.push_back(std::move(*item));
    else
      most = i;
  }
  // Where the first items are described and the rest is not, there is none, if that can be.
  Written rest = Json::object();
  if (v.rest)
    rest = write(*v.rest);
  else if (!v.first.empty() && v.min_count <= first.size())
    rest.reset();
  if (!rest) most = std::min<uint64_t>(most, first.size());
  if (v.min_count > most) return std::nullopt;
  if (v.min_count > kMost) reader_.refuse(v.place, "minItems", ": no answer is that long");
  if (v.unique && most > 1) reader_.refuse(v.place, "uniqueItems", "; leave it out");

  Json written = {{"type", "array"}};
  const bool more = most > first.size();
  if (!first.empty()) written["prefixItems"] = std::move(first);
  written["items"] = more ? std::move(*rest) : Json(false);
  if (v.min_count > 0) written["minItems"] = v.min_count;
  if (more && most < kMost) written["maxItems"] = most;
  return written;
}

std::optional<SchemaPattern> SchemaWriter::names(Values& v, bool& open) {
  if (v.names.empty()) return std::nullopt;
  Choice said = reader_.read(v.names);
  if (!said) return std::nullopt;
  std::erase_if(*said, [](const Values& values) { return values.type != kStringType; });
  const bool listed =
      std::all_of(said->begin(), said->end(), [](const Values& values) { return values.only.has_value(); });
  if (listed) {
    for (const Values& values : *said) {
      const std::string& name = values.only->get_ref<const std::string&>();
      if (open && !v.member(name)) v.members.emplace_back(name, v.said_of(name));
    }
    open = false;
    return std::nullopt;
  }
  const Values& form = said->front();
  if (said->size() > 1) reader_.refuse(v.names.front(), "propertyNames", " of several forms");
  const size_t most = form.max_count == Values::kNoLimit ? SchemaPattern::kUnbounded : form.max_count;
  SchemaPattern pattern = form.pattern ? *form.pattern : SchemaPattern::any_of_length(form.min_count, most);
  if (!pattern.limit_length(form.min_count, most))
    reader_.refuse(form.place, "minLength", " and \"maxLength\" beside this \"pattern\"");
  return pattern;
}

SchemaWriter::Written SchemaWriter::object(Values v) {
  const bool says_members = !v.members.empty() || !v.pattern_members.empty();
  const auto matched = [&](const std::string& name) {
    return std::any_of(v.pattern_members.begin(), v.pattern_members.end(),
                       [&](const auto& member) { return member.first.contains(name); });
  };
  // Are there members that have no schema of their own? As long as nothing is said of any, or that there may be.
  bool open = v.others || !says_members;
  Written others = open ? write(v.others.value_or(SchemaPlaces())) : std::nullopt;
  open = others.has_value();
  if (open && !v.pattern_members.empty())
    reader_.refuse(v.place, "patternProperties", " beside \"additionalProperties\", unless that is false");
  if (!v.names.empty() && !v.pattern_members.empty())
    reader_.refuse(v.names.front(), "propertyNames", " beside \"patternProperties\"");
  std::optional<SchemaPattern> key = names(v, open);

  for (const std::string& name : v.required) {
    if (v.member(name)) continue;
    if (!open && !matched(name) && v.others) return std::nullopt;
    v.members.emplace_back(name, v.said_of(name));
  }
  Json members = Json::object();
  std::vector<std::string> mentioned;
  for (const auto& [name, places] : v.members) {
    mentioned.push_back(name);
    Written member = write(places);
    if (member && !reader_.admits(v.names, Json(name))) member.reset();
    if (member)
      members[name] = std::move(*member);
    else if (lists(v.required, name))
      return std::nullopt;
  }

  Json patterns = Json::object();
  for (size_t i = 0; i < v.pattern_members.size(); ++i) {
    const auto& [pattern, places] = v.pattern_members[i];
    const Written written = write(places);
    const auto clashes = [&](const Json* other) { return !other || !written || *other != *written; };
    for (const std::string& name : mentioned) {
      if (pattern.contains(name) && clashes(members.contains(name) ? &members[name] : nullptr))
        reader_.refuse(places.front(), "patternProperties", fmt::format(": it matches \"{}\" too", name));
    }
    for (size_t j = 0; j < i; ++j) {
      if (pattern.is_apart_from(v.pattern_members[j].first)) continue;
      const std::string other = v.pattern_members[j].first.in_json();
      if (clashes(patterns.contains(other) ? &patterns[other] : nullptr))
        reader_.refuse(places.front(), "patternProperties", ": two of them may match the same name");
    }
    if (written) patterns[pattern.in_json()] = *written;
  }

  const uint64_t required = v.required.size();
  if (required > v.max_count) return std::nullopt;
  if (!open && patterns.empty() && v.min_count > members.size()) {
    if (v.others || !v.names.empty()) return std::nullopt;
    if (!v.pattern_members.empty()) reader_.refuse(v.place, "patternProperties", " that no member can have");
    open = true;
    others = Json::object();
  }
  if ((open || !patterns.empty()) && v.min_count > required + 1)
    reader_.refuse(v.place, "minProperties", ", of which more than one has a free name: it could be repeated");

  Json written = {{"type", "object"}};
  if (open && !mentioned.empty()) {
    const bool same = std::all_of(members.begin(), members.end(), [&](const Json& m) { return m == *others; });
    if (key && (!same || members.size() < mentioned.size()))
      reader_.refuse(v.names.front(), "propertyNames", " beside \"properties\" and \"additionalProperties\"");
    if (!key) key = SchemaPattern::all_but(mentioned);
  }
  const uint64_t size = members.size();
  if (!members.empty()) written["properties"] = std::move(members);
  if (required > 0) written["required"] = v.required;
  if (!patterns.empty()) written["patternProperties"] = std::move(patterns);
  if (open && key) written["propertyNames"] = string_of(*key);
  const bool more = open || written.contains("patternProperties");
  written["additionalProperties"] = open ? (others->empty() ? Json(true) : std::move(*others)) : Json(false);
  if (v.min_count > required) written["minProperties"] = v.min_count;
  constexpr uint64_t kMost = 1 << 30;
  if (v.max_count < (more ? kMost : size)) written["maxProperties"] = v.max_count;
  return written;
}

}  // namespace kt
