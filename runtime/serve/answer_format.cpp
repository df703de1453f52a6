#include "runtime/serve/answer_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/answer_schema.h"
#include "runtime/serve/errors.h"
#include "runtime/text/reasoning_parser.h"

namespace kt {
namespace {

// Between two marks of JSON: room for indented text, and an end to models that write nothing else.
constexpr int kMaxWhiteSpace = 20;

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

Json regex_format(const Json& value, const std::string& path) {
  const std::string& pattern = to_string(value, path);
  check_expression(pattern, path);
  return {{"type", "regex"}, {"pattern", pattern}};
}

Json ebnf_format(const Json& value, const std::string& path) {
  const std::string& grammar = to_string(value, path);
  check_size(value, path);
  check_repeats(grammar, path);
  return {{"type", "grammar"}, {"grammar", grammar}};
}

// A client's format, with the checks that its parts have elsewhere.
Json checked_format(const Json& given, const std::string& path) {
  if (given.is_array()) {
    Json list = Json::array();
    for (size_t i = 0; i < given.size(); ++i) list.push_back(checked_format(given[i], fmt::format("{}[{}]", path, i)));
    return list;
  }
  if (!given.is_object()) return given;
  const Fields fields(given, path);
  std::string type;
  fields.read("type", type);
  Json format = Json::object();
  for (const auto& [name, value] : given.items()) {
    const std::string at = fields.path(name);
    if (type == "json_schema" && name == "json_schema") {
      format[name] = checked_schema(value, at);
    } else {
      if (type == "regex" && name == "pattern") check_expression(to_string(value, at), at);
      if (type == "grammar" && name == "grammar") check_repeats(to_string(value, at), at);
      if (type == "repeat" && (name == "min" || name == "max")) to_integer(value, at, -1, kMaxRepeatedParts);
      format[name] = checked_format(value, at);
    }
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
  if (type == "json_object")
    return schema_format({{"type", "object"}, {"additionalProperties", true}}, "response_format");
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

Json schema_format(const Json& schema, const std::string& path) {
  return {{"type", "json_schema"},
          {"json_schema", checked_schema(to_object(schema, path), path)},
          {"max_whitespace_cnt", kMaxWhiteSpace}};
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
  take("regex", [](const Json& v, const std::string& path) -> Read { return regex_format(v, path); });
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
