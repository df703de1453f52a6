#include "runtime/text/answers/tool_call_object.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

namespace kt {
namespace {

std::optional<std::string> string_of(std::string_view json) {
  const nlohmann::json value = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return std::nullopt;
  return value.get<std::string>();
}

bool is_white_space(char c) { return kWhiteSpace.find(c) != kWhiteSpace.npos; }

}  // namespace

size_t CallObject::read(std::string_view text, CallWriter& out) {
  for (size_t i = 0; i < text.size(); ++i) {
    const Taken taken = take(text[i], out);
    if (taken != Taken::kNo && !named_) raw_ += text[i];
    if (taken == Taken::kYes) continue;
    end(out);
    return i + (taken == Taken::kLast);
  }
  return text.size();
}

CallObject::Taken CallObject::take(char c, CallWriter& out) {
  switch (place_) {
    case Place::kOpen: place_ = Place::kBeforeKey; return Taken::kYes;  // the '{' that the caller saw
    case Place::kBeforeKey:
      if (c == '}') return Taken::kLast;
      if (c == ',' || is_white_space(c)) return Taken::kYes;
      text_ = c;
      place_ = Place::kKey;
      return c == '"' ? Taken::kYes : Taken::kNo;
    case Place::kKey:
      text_ += c;
      if (c == '"' && !escaped_) place_ = Place::kColon;
      escaped_ = !escaped_ && c == '\\';
      return Taken::kYes;
    case Place::kColon:
      if (c == ':') place_ = Place::kBeforeValue;
      return c == ':' || is_white_space(c) ? Taken::kYes : Taken::kNo;
    case Place::kBeforeValue:
      if (is_white_space(c)) return Taken::kYes;
      begin_value(c);
      return take_value(c, out);
    default: return take_value(c, out);
  }
}

void CallObject::begin_value(char first) {
  const std::string key = string_of(text_).value_or("");
  const bool arguments = (key == "arguments" || key == "parameters") && !has_arguments_;
  member_ = key == "name" && !named_ ? Member::kName : arguments ? Member::kArguments : Member::kOther;
  arguments_are_object_ = arguments && first == '{';
  has_arguments_ = has_arguments_ || arguments;
  scalar_ = first != '{' && first != '[' && first != '"';
  nesting_ = {};
  text_.clear();
  place_ = Place::kValue;
}

CallObject::Taken CallObject::take_value(char c, CallWriter& out) {
  if (scalar_ && (c == ',' || c == '}' || is_white_space(c))) {
    end_value(out);
    return c == '}' ? Taken::kLast : Taken::kYes;
  }
  if (nesting_.follow({&c, 1}).end == JsonNesting::Step::End::kAngle) return Taken::kNo;
  if (arguments_are_object_)
    arguments({&c, 1}, out);
  else if (member_ != Member::kOther)
    text_ += c;
  if (!scalar_ && nesting_.at_end()) end_value(out);
  return Taken::kYes;
}

void CallObject::end_value(CallWriter& out) {
  place_ = Place::kBeforeKey;
  if (member_ == Member::kName) {
    const std::optional<std::string> name = string_of(text_);
    if (!name) return;
    out.begin_call(*name);
    named_ = true;
    out.arguments(std::exchange(arguments_, {}));
    raw_.clear();
  } else if (member_ == Member::kArguments && !arguments_are_object_) {
    // An object inside a string, no arguments, or what the model wrote in their place.
    const std::string inside = string_of(text_).value_or("");
    const bool is_object = inside.starts_with('{') && nlohmann::json::accept(inside);
    arguments(is_object ? inside : text_ == "null" || text_ == "\"\"" ? "{}" : text_, out);
  }
}

void CallObject::end(CallWriter& out) {
  place_ = Place::kEnd;
  if (!named_) return out.content(raw_);
  if (!has_arguments_) out.arguments("{}");
  out.end_call();
}

void CallObject::arguments(std::string_view text, CallWriter& out) {
  if (named_)
    out.arguments(text);
  else
    arguments_ += text;
}

}  // namespace kt
