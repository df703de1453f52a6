// What several schemas say together: the part of SchemaReader that compares Values.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "runtime/serve/errors.h"
#include "runtime/serve/schemas/schema_reader.h"
#include "runtime/text/grammars/ecma_regex.h"

namespace kt {
namespace {

constexpr size_t kMaxCompared = 256;  // of oneOf, each of which is compared with each
constexpr size_t kMaxPairs = 1024;    // of branches of two unions that both hold

bool above(const std::optional<NumberBound>& least, long double value) {
  return !least || (least->out ? value > least->value : value >= least->value);
}
bool below(const std::optional<NumberBound>& most, long double value) {
  return !most || (most->out ? value < most->value : value <= most->value);
}

void tighten(std::optional<NumberBound>& least, const std::optional<NumberBound>& other, bool upper) {
  if (!other) return;
  const bool tighter = !least || (upper ? other->value < least->value : other->value > least->value) ||
                       (other->value == least->value && other->out);
  if (tighter) least = other;
}

bool requires_member(const Values& v, const std::string& name) {
  return std::find(v.required.begin(), v.required.end(), name) != v.required.end();
}

void forbid_member(Values& v, const std::string& name) {
  static const Json kNever = false;
  if (v.members.empty() && v.pattern_members.empty() && !v.others) v.others = SchemaPlaces();  // still of any name
  const SchemaPlaces never = v.said_of(name) + SchemaPlaces{{&kNever, "#(never)"}};
  std::erase_if(v.members, [&](const auto& member) { return member.first == name; });
  v.members.emplace_back(name, never);
}

}  // namespace

bool SchemaReader::is_empty(const Values& v) {
  if (v.min_count > v.max_count) return true;
  if (!v.least || !v.most) return false;
  if (v.integer) {
    const long double low = std::floor(v.least->value) + (v.least->out || v.least->value > std::floor(v.least->value));
    return !below(v.most, low);
  }
  return !below(v.most, v.least->value) || !above(v.least, v.most->value);
}

Choice SchemaReader::both(const SchemaPlace& place, Choice a, const Choice& b) {
  if (!a) return b;
  if (!b) return a;
  if (a->size() > 1 && b->size() > 1 && a->size() * b->size() > kMaxPairs)
    refuse(place, "anyOf", fmt::format(" beside others: more than {} combinations", kMaxPairs));
  std::vector<Values> all;
  for (Values& x : *a) {
    for (const Values& y : *b) {
      if (std::optional<Values> common = both(x, y)) all.push_back(std::move(*common));
    }
  }
  return all;
}

// Nothing: no value is in both, as far as can be told here.
std::optional<Values> SchemaReader::both(Values a, const Values& b) {
  if (a.type != b.type) return std::nullopt;
  if (b.only) return admits(a, *b.only) ? std::optional(b) : std::nullopt;
  if (a.only) return admits(b, *a.only) ? std::optional(a) : std::nullopt;

  a.integer = a.integer || b.integer;
  a.multiple_of = std::lcm(a.multiple_of, b.multiple_of);
  tighten(a.least, b.least, /*upper=*/false);
  tighten(a.most, b.most, /*upper=*/true);

  a.min_count = std::max(a.min_count, b.min_count);
  a.max_count = std::min(a.max_count, b.max_count);
  if (is_empty(a)) return std::nullopt;
  if (a.pattern && b.pattern && a.pattern->in_json() != b.pattern->in_json()) {
    if (a.pattern->is_apart_from(*b.pattern)) return std::nullopt;
    refuse(b.place, b.place.schema->contains("pattern") ? "pattern" : "format", " beside another \"pattern\"");
  }
  if (!a.pattern) a.pattern = b.pattern;

  const SchemaPlaces a_rest = a.rest.value_or(SchemaPlaces()), b_rest = b.rest.value_or(SchemaPlaces());
  for (size_t i = 0; i < std::max(a.first.size(), b.first.size()); ++i) {
    if (i == a.first.size()) a.first.push_back(a_rest);
    a.first[i] = std::move(a.first[i]) + (i < b.first.size() ? b.first[i] : b_rest);
  }
  if (b.rest) a.rest = a_rest + b_rest;
  a.unique = a.unique || b.unique;

  if (!a.pattern_members.empty() && !b.pattern_members.empty())
    refuse(b.place, "patternProperties", " beside another one");
  if ((!a.pattern_members.empty() && b.others) || (!b.pattern_members.empty() && a.others))
    refuse(b.place, "patternProperties", " beside another schema's \"additionalProperties\"");
  std::vector<std::pair<std::string, SchemaPlaces>> members;
  for (const auto& [name, places] : a.members) members.emplace_back(name, SchemaPlaces(places) + b.said_of(name));
  for (const auto& [name, places] : b.members) {
    if (!a.member(name)) members.emplace_back(name, a.said_of(name) + places);
  }
  a.members = std::move(members);
  a.pattern_members.insert(a.pattern_members.end(), b.pattern_members.begin(), b.pattern_members.end());
  if (b.others) a.others = a.others.value_or(SchemaPlaces()) + *b.others;
  a.names = std::move(a.names) + b.names;
  for (const std::string& name : b.required) {
    if (!requires_member(a, name)) a.required.push_back(name);
  }
  return a;
}

// oneOf: a value that is written for one branch is none of another branch. Of objects that would need a member for that
// which they may have, that member is taken: a value with it would be of both branches.
void SchemaReader::check_apart(const SchemaPlace& place, std::vector<Choice>& branches) {
  if (branches.size() > kMaxCompared)
    refuse(place, "oneOf", fmt::format(" of more than {}; use \"anyOf\"", kMaxCompared));
  for (size_t i = 0; i < branches.size(); ++i) {
    for (size_t j = 0; j < branches.size(); ++j) {
      if (i == j) continue;
      const bool apart =
          branches[i] && branches[j] && std::all_of(branches[i]->begin(), branches[i]->end(), [&](Values& a) {
            return std::all_of(branches[j]->begin(), branches[j]->end(),
                               [&](const Values& b) { return excludes(a, b); });
          });
      if (!apart)
        refuse(
            place, "oneOf",
            fmt::format(": a value may be of both oneOf/{} and oneOf/{}; use \"anyOf\", or give them a required member "
                        "each with a \"const\" of its own",
                        std::min(i, j), std::max(i, j)));
    }
  }
}

bool SchemaReader::excludes(Values& written, const Values& other) {
  if (written.type != other.type) return true;
  try {
    const std::optional<Values> common = both(written, other);
    if (!common) return true;
    if (common->type != kObjectType || common->only) return false;
    const auto is_optional = [&](const std::string& name) { return !requires_member(written, name); };
    for (const std::string& name : other.required) {
      const Choice values = is_optional(name) ? Choice() : read(common->said_of(name));
      if (values && values->empty()) return true;
    }
    const auto name = std::find_if(other.required.begin(), other.required.end(), is_optional);
    if (name == other.required.end()) return false;
    forbid_member(written, *name);
    return true;
  } catch (const BadRequest&) {  // cannot be told
    return false;
  }
}

bool SchemaReader::admits(const SchemaPlaces& places, const Json& value) {
  const Choice choice = read(places);
  return !choice || std::any_of(choice->begin(), choice->end(), [&](const Values& v) { return admits(v, value); });
}

bool SchemaReader::admits(const Values& v, const Json& value) {
  JsonType type = type_of_value(value);
  if (type == kIntegerType) type = kNumberType;
  if (type != v.type) return false;
  if (v.only) return nlohmann::json(*v.only) == nlohmann::json(value);  // whatever the order of members
  const auto counts = [&](size_t count) { return count >= v.min_count && count <= v.max_count; };
  switch (type) {
    case kNumberType: {
      if (value.is_binary()) return v.multiple_of == 1 && !v.least && !v.most;
      const long double number = value.is_number_float()      ? static_cast<long double>(value.get<double>())
                                 : value.is_number_unsigned() ? static_cast<long double>(value.get<uint64_t>())
                                                              : static_cast<long double>(value.get<int64_t>());
      if (v.integer && number != std::floor(number)) return false;
      const bool in_steps = !v.integer || std::fmod(number, static_cast<long double>(v.multiple_of)) == 0;
      return in_steps && above(v.least, number) && below(v.most, number);
    }
    case kStringType: {
      const std::string& text = value.get_ref<const std::string&>();
      return counts(characters_of(text).size()) && (!v.pattern || v.pattern->contains(text));
    }
    case kArrayType: {
      if (!counts(value.size())) return false;
      for (size_t i = 0; i < value.size(); ++i) {
        if (!admits(i < v.first.size() ? v.first[i] : v.rest.value_or(SchemaPlaces()), value[i])) return false;
        if (v.unique && std::find(value.begin(), value.begin() + static_cast<ptrdiff_t>(i), value[i]) !=
                            value.begin() + static_cast<ptrdiff_t>(i))
          return false;
      }
      return true;
    }
    case kObjectType:
      for (const std::string& name : v.required) {
        if (!value.contains(name)) return false;
      }
      for (const auto& [name, inner] : value.items()) {
        if (!admits(v.names, Json(name)) || !admits(v.said_of(name), inner)) return false;
      }
      return counts(value.size());
    default: return true;
  }
}

}  // namespace kt
