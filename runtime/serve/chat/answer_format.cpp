#include "runtime/serve/chat/answer_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/errors.h"
#include "runtime/serve/fields.h"
#include "runtime/text/answers/reasoning_parser.h"

namespace kt {
namespace {

constexpr int kMaxIndentation = 20;  // spaces and tabs on a new line between two marks of JSON

int depth_of(const Json& value) {
  int depth = 0;
  for (const Json& inner : value) {
    if (inner.is_structured()) depth = std::max(depth, depth_of(inner));
  }
  return depth + 1;
}

void check_size(const Json& value, const std::string& path) {
  const size_t bytes = value.is_string() ? value.get_ref<const std::string&>().size() : dump(value).size();
  if (bytes > kMaxFormatBytes)
    throw BadRequest(path, fmt::format("{}: {} bytes are more than the limit of {}", path, bytes, kMaxFormatBytes));
  if (value.is_structured() && depth_of(value) > kMaxFormatDepth)
    throw BadRequest(path, fmt::format("{}: nested deeper than {} levels", path, kMaxFormatDepth));
}

// JSON that a client may also have put into a string.
Json to_object(const Json& value, const std::string& path) {
  check_size(value, path);
  if (!value.is_string()) {
    Fields(value, path);
    return value;
  }
  const Json parsed = Json::parse(value.get_ref<const std::string&>(), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) throw BadRequest(path, fmt::format("{}: expected an object or its JSON text", path));
  check_size(parsed, path);
  return parsed;
}

// To the grammar compiler a dot is any character, to everybody else one that does not end a line.
std::string with_common_dots(std::string_view expression) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      out += expression.substr(i++, 2);
      continue;
    }
    in_class = c == '[' || (in_class && c != ']');
    out += c == '.' && !in_class ? std::string_view("[^\\n\\r\\u2028\\u2029]") : expression.substr(i, 1);
  }
  return out;
}

std::string checked_regex(const Json& value, const std::string& path) {
  const std::string& pattern = to_string(value, path);
  check_expression(pattern, path);
  return with_common_dots(pattern);
}

Json ebnf_format(const Json& value, const std::string& path) {
  const std::string& grammar = to_string(value, path);
  check_size(value, path);
  check_repeats(grammar, path);
  return {{"type", "grammar"}, {"grammar", grammar}};
}

void refuse_member(const std::string& path, std::string_view what) {
  throw BadRequest(path, fmt::format("{}: only {} beside a schema", path, what), "unsupported");
}

// A client's format, with the checks that its parts have elsewhere.
Json checked_format(const Json& given, const std::string& path) {
  if (given.is_array()) {
    Json list = Json::array();
    for (size_t i = 0; i < given.size(); ++i) list.push_back(checked_format(given[i], element_of(path, i)));
    return list;
  }
  if (!given.is_object()) return given;
  const Fields fields(given, path);
  std::string type;
  fields.read("type", type);
  Json format = Json::object();
  if (type == "qwen_xml_parameter") refuse_member(fields.path("type"), "\"json_schema\" can be held");
  if (type == "json_schema") {
    std::string style = "json";
    bool any_order = false;
    fields.read("style", style);
    fields.read("any_order", any_order);
    if (style != "json") refuse_member(fields.path("style"), "\"json\" can be held");
    if (any_order) refuse_member(fields.path("any_order"), "false can be held");
    if (const Json* excludes = fields.find("excludes"); excludes && !excludes->empty())
      refuse_member(fields.path("excludes"), "an empty list can be held");
    const Json* schema = fields.find("json_schema");
    if (!schema) throw BadRequest(fields.path("json_schema"), fields.path("json_schema") + ": is required");
    return json_format(checked_schema(*schema, fields.path("json_schema")));
  }
  for (const auto& [name, value] : given.items()) {
    const std::string at = fields.path(name);
    if (type == "grammar" && name == "grammar") check_repeats(to_string(value, at), at);
    if (type == "repeat" && (name == "min" || name == "max")) to_integer(value, at, -1, kMaxRepeatedParts);
    format[name] = type == "regex" && name == "pattern" ? Json(checked_regex(value, at)) : checked_format(value, at);
  }
  return format;
}

// {"format": ...}, or the older {"structures": [{"begin", "schema", "end"}], "triggers": [...]}.
Json tag_format(const Json& value, const std::string& path) {
  const Json tag = to_object(value, path);
  const Fields fields(tag, path);
  if (const Json* format = fields.find("format")) return checked_format(*format, fields.path("format"));
  const Json *structures = fields.find("structures"), *triggers = fields.find("triggers");
  if (!structures || !structures->is_array() || !triggers)
    throw BadRequest(path, fmt::format("{}: expected \"format\", or \"structures\" and \"triggers\"", path));
  Json tags = Json::array();
  for (size_t i = 0; i < structures->size(); ++i) {
    const std::string at = fmt::format("{}.structures[{}]", path, i);
    const Fields structure((*structures)[i], at);
    std::string begin, end;
    const Json* schema = structure.find("schema");
    if (!structure.read("begin", begin) || !structure.read("end", end) || !schema)
      throw BadRequest(at, at + ": expected \"begin\", \"schema\" and \"end\"");
    tags.push_back(
        {{"type", "tag"}, {"begin", begin}, {"content", schema_format(*schema, at + ".schema")}, {"end", end}});
  }
  return {{"type", "triggered_tags"}, {"triggers", *triggers}, {"tags", std::move(tags)}};
}

std::optional<Json> read_response_format(const Json& value) {
  const Fields fields(value, "response_format");
  std::string type;
  if (!fields.read("type", type)) throw BadRequest("response_format.type", "response_format.type: is required");
  if (type == "text") return std::nullopt;
  if (type == "json_object") {
    const Json* schema = fields.find("schema");
    return schema_format(schema ? *schema : Json::object(), "response_format.schema", {.an_object = true});
  }
  if (type == "structural_tag") return tag_format(value, "response_format");
  if (type != "json_schema")
    throw BadRequest(
        "response_format.type",
        fmt::format("response_format.type: \"{}\" is none of text, json_object, json_schema, structural_tag", type));
  const Json* inner = fields.find("json_schema");
  const Json* schema = inner ? Fields(*inner, "response_format.json_schema").find("schema") : fields.find("schema");
  const std::string path = inner ? "response_format.json_schema.schema" : "response_format.schema";
  if (!schema) throw BadRequest(path, path + ": is required");
  return schema_format(*schema, path);
}

}  // namespace

Json read_schema(const Json& schema, const std::string& path, SchemaUse use) {
  return checked_schema(to_object(schema, path), path, use);
}

Json json_format(Json schema) {
  return {{"type", "json_schema"}, {"json_schema", std::move(schema)}, {"max_whitespace_cnt", kMaxIndentation}};
}

std::optional<AnswerFormat> read_answer_format(const Fields& fields) {
  std::optional<AnswerFormat> found;
  const auto take = [&](const char* name, auto read) {
    const Json* value = fields.find(name);
    if (!value) return;
    const std::string path = fields.path(name);
    std::optional<Json> format = read(*value, path);
    if (!format) return;
    if (found) throw BadRequest(path, fmt::format("{} and {}: an answer can have only one form", found->param, path));
    found = {std::move(*format), path};
  };
  using Read = std::optional<Json>;
  take("response_format", [](const Json& v, const std::string&) { return read_response_format(v); });
  take("json_schema", [](const Json& v, const std::string& path) -> Read { return schema_format(v, path); });
  take("regex", [](const Json& v, const std::string& path) -> Read {
    return {{{"type", "regex"}, {"pattern", checked_regex(v, path)}}};
  });
  take("ebnf", [](const Json& v, const std::string& path) -> Read { return ebnf_format(v, path); });
  take("structural_tag", [](const Json& v, const std::string& path) -> Read { return tag_format(v, path); });
  return found;
}

Json behind_reasoning(Json format, Json excludes) {
  const Json reasoning = {{"type", "tag"},
                          {"begin", ""},
                          {"content", {{"type", "any_text"}, {"excludes", std::move(excludes)}}},
                          {"end", ReasoningParser::kClose}};
  const Json gap = {{"type", "regex"}, {"pattern", "\\n{0,2}"}};
  return {{"type", "sequence"}, {"elements", Json::array({reasoning, gap, std::move(format)})}};
}

std::string to_structural_tag(const Json& format) { return dump({{"type", "structural_tag"}, {"format", format}}); }

}  // namespace kt
