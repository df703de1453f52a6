#include "launcher/chat_parameters.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

enum class Kind : uint8_t { number, integer, flag, text };

constexpr struct {
  std::string_view name;
  Kind kind;
} kParameters[] = {
    {"temperature", Kind::number},
    {"top_p", Kind::number},
    {"top_k", Kind::integer},
    {"min_p", Kind::number},
    {"max_tokens", Kind::integer},
    {"seed", Kind::integer},
    {"frequency_penalty", Kind::number},
    {"presence_penalty", Kind::number},
    {"repetition_penalty", Kind::number},
    {"stop", Kind::text},
    {"reasoning_effort", Kind::text},
    {"ignore_eos", Kind::flag},
};

}  // namespace

std::vector<std::string_view> parameter_names() {
  std::vector<std::string_view> names;
  for (const auto& parameter : kParameters) names.push_back(parameter.name);
  return names;
}

void check_parameter_name(std::string_view name) {
  const std::vector<std::string_view> names = parameter_names();
  if (std::find(names.begin(), names.end(), name) == names.end())
    fail(kExitUsage, "unknown parameter {}; the nearest one is {}", name, nearest(name, names));
}

Json parameter_value(std::string_view name, std::string_view text) {
  check_parameter_name(name);
  for (const auto& [known, kind] : kParameters) {
    if (known != name) continue;
    if (kind == Kind::text) return std::string(text);
    const Json value = Json::parse(text, nullptr, false);
    if (kind == Kind::number && value.is_number()) return value;
    if (kind == Kind::integer && value.is_number_integer()) return value;
    if (kind == Kind::flag && value.is_boolean()) return value;
    fail(kExitUsage, "{}: expected {}, found '{}'", name,
         kind == Kind::number    ? "a number"
         : kind == Kind::integer ? "a whole number"
                                 : "true or false",
         text);
  }
  return nullptr;
}

}  // namespace kt
