#include "runtime/serve/chat/tagged_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/errors.h"
#include "runtime/text/answers/tool_schema.h"

namespace kt {
namespace {

Json constant(std::string_view text) { return {{"type", "const_string"}, {"value", text}}; }

Json one_of(Json elements) {
  if (elements.size() == 1) return std::move(elements[0]);
  return {{"type", "or"}, {"elements", std::move(elements)}};
}

class Writer {
 public:
  Writer(const ParameterTags& tags, const Json& tools, size_t i, const Json& parameters)
      : tags_(tags),
        types_(tools),
        function_(tools[i]["function"]["name"].get<std::string>()),
        param_(fmt::format("tools[{}].function.parameters", i)),
        definitions_(parameters.value("$defs", Json::object())) {}

  Json arguments(const Json& schema) const {
    Json all = Json::array();
    for (const Json& branch : branches(schema)) {
      if (branch.value("type", "") != "object") refuse("enum");
      all.push_back(members(branch));
    }
    return one_of(std::move(all));
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw BadRequest(
        param_,
        fmt::format("{}: this server cannot hold {} in the form in which this model writes calls; leave it "
                    "out, \"strict\" too, or force the call with \"tool_choice\"",
                    param_, what),
        "unsupported");
  }

  // The schemas whose union this one is, without references.
  std::vector<Json> branches(const Json& schema, int depth = 0) const {
    if (depth > 16) refuse("\"$ref\"s that lead to each other");
    if (schema.contains("$ref")) {
      const std::string name = schema["$ref"].get<std::string>().substr(std::string_view("#/$defs/").size());
      return branches(definitions_.at(name), depth + 1);
    }
    const auto any_of = schema.find("anyOf");
    if (any_of == schema.end()) return {schema};
    std::vector<Json> all;
    for (const Json& inner : *any_of) {
      for (Json& branch : branches(inner, depth + 1)) all.push_back(std::move(branch));
    }
    return all;
  }

  Json members(const Json& object) const {
    for (const char* keyword : {"minProperties", "maxProperties", "patternProperties"}) {
      if (object.contains(keyword)) refuse(fmt::format("\"{}\"", keyword));
    }
    Json all = Json::array();
    const Json required = object.value("required", Json::array());
    const Json properties = object.value("properties", Json::object());
    for (const auto& [name, schema] : properties.items()) {
      if (name.empty() || name.find_first_of("<>\"\n\r") != name.npos)
        refuse(fmt::format("a parameter named {}", dump(Json(name))));
      Json one = parameter(constant(name), name, schema);
      const bool needed = std::find(required.begin(), required.end(), Json(name)) != required.end();
      all.push_back(needed ? std::move(one) : Json{{"type", "optional"}, {"content", std::move(one)}});
    }
    if (object["additionalProperties"] != false) {
      if (!all.empty() || object.contains("propertyNames")) refuse("\"additionalProperties\" but false");
      const Json name = {{"type", "regex"}, {"pattern", "[A-Za-z_][A-Za-z0-9_.-]{0,63}"}};
      const Json& others = object["additionalProperties"];
      all.push_back({{"type", "star"}, {"content", parameter(name, "", others == true ? Json::object() : others)}});
    }
    if (all.empty()) return constant("");
    return {{"type", "sequence"}, {"elements", std::move(all)}};
  }

  Json parameter(const Json& written_name, const std::string& name, const Json& schema) const {
    const bool told_apart = tags_.before_text != tags_.before_json;
    Json texts = Json::array(), values = Json::array();
    for (const Json& branch : branches(schema)) {
      const auto listed = branch.find("enum");
      if (branch.empty()) {
        texts.push_back({{"type", "any_text"}});
        if (told_apart) values.push_back(branch);
      } else if (listed != branch.end()) {
        for (const Json& value : *listed) {
          if (value.is_string())
            texts.push_back(constant(checked_text(value.get<std::string>())));
          else
            values.push_back({{"enum", Json::array({value})}});
        }
      } else if (branch["type"] == "string") {
        texts.push_back(text(branch));
      } else {
        values.push_back(branch);
      }
    }
    if (!told_apart) tell_apart(name, texts, values);

    Json forms = Json::array();
    for (Json& one : texts) forms.push_back(tagged(written_name, tags_.before_text, std::move(one)));
    if (!values.empty()) {
      Json json = values.size() == 1 ? values[0] : Json{{"anyOf", values}};
      if (!definitions_.empty()) json["$defs"] = definitions_;
      forms.push_back(tagged(written_name, tags_.before_json, json_format(std::move(json))));
    }
    return one_of(std::move(forms));
  }

  // Where the types that the client gave tell JSON from text (typed_value()): text that is JSON of one of them is that.
  void tell_apart(const std::string& name, const Json& texts, Json& values) const {
    const JsonTypes types = types_.types(function_, name).value_or(kStringType);
    if (types == kAnyType || types == kStringType) values.clear();  // all is text
    if (texts.empty() && values.empty()) refuse(fmt::format("the values of parameter {}", dump(Json(name))));
    const bool told = std::all_of(texts.begin(), texts.end(), [](const Json& text) {
      return text["type"] == "const_string" && !Json::accept(text["value"].get<std::string>());
    });
    if (told) return;
    for (const Json& value : values) {
      const bool all_of_type = value == Json{{"type", "null"}} || value == Json{{"type", "boolean"}} ||
                               value == Json{{"type", "number"}} || value == Json{{"type", "integer"}} ||
                               value == Json{{"type", "array"}, {"items", Json::object()}} ||
                               value == Json{{"type", "object"}, {"additionalProperties", true}};
      if (!all_of_type)
        refuse(fmt::format("parameter {} to be either a string or one of a few other values", dump(Json(name))));
    }
  }

  Json tagged(const Json& name, std::string_view before, Json value) const {
    Json parts = Json::array({constant(tags_.before_name), name, constant(before)});
    if (value["type"] == "any_text") {
      // The line end before the closing tag is part of it, whether the text has one or not.
      const std::string_view close = tags_.close.substr(0, tags_.close.find('\n'));
      parts.push_back({{"type", "tag"}, {"begin", ""}, {"content", std::move(value)}, {"end", close}});
      parts.push_back(constant(tags_.close.substr(close.size())));
    } else {
      parts.push_back(std::move(value));
      parts.push_back(constant(fmt::format("{}{}", tags_.after_value, tags_.close)));
    }
    return {{"type", "sequence"}, {"elements", std::move(parts)}};
  }

  Json text(const Json& schema) const {
    const auto bare = schema.find("bare");
    if (bare != schema.end()) return {{"type", "regex"}, {"pattern", *bare}};
    if (schema.contains("pattern")) refuse("this \"pattern\"");
    if (!schema.contains("minLength") && !schema.contains("maxLength")) return {{"type", "any_text"}};
    const std::string most = schema.contains("maxLength") ? dump(schema["maxLength"]) : "";
    return {{"type", "regex"},
            {"pattern", fmt::format("[^<]{{{},{}}}", dump(schema.value("minLength", Json(0))), most)}};
  }

  const std::string& checked_text(const std::string& value) const {
    if (value.find('<') != value.npos) refuse("a value with \"<\"");
    return value;
  }

  const ParameterTags& tags_;
  const ToolSchemas types_;
  const std::string function_;
  const std::string param_;
  const Json definitions_;
};

}  // namespace

Json tagged_arguments(const ParameterTags& tags, const Json& tools, size_t i, const Json& parameters) {
  return Writer(tags, tools, i, parameters).arguments(parameters);
}

}  // namespace kt
