#include "runtime/serve/chat/call_format.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/serve/chat/answer_format.h"
#include "runtime/serve/chat/tagged_arguments.h"
#include "runtime/serve/errors.h"

namespace kt {
namespace {

std::string name_of(const Json& tool) { return tool["function"]["name"].get<std::string>(); }

bool is_strict(const Json& tool) { return tool["function"].value("strict", Json(false)) == true; }

Json fixed(std::string_view text) { return {{"type", "const_string"}, {"value", text}}; }

Json sequence(Json elements) { return {{"type", "sequence"}, {"elements", std::move(elements)}}; }

Json tag(std::string_view begin, Json content, std::string_view end) {
  return {{"type", "tag"}, {"begin", begin}, {"content", std::move(content)}, {"end", end}};
}

Json list_of(Json tags, std::string_view separator, bool one) {
  return {{"type", "tags_with_separator"},
          {"tags", std::move(tags)},
          {"separator", separator},
          {"at_least_one", true},
          {"stop_after_first", one}};
}

// The parameters of tool `i`: an object, also where the client says nothing about them.
Json parameters(const Json& tool, size_t i, SchemaUse use = {}) {
  const Json& function = tool["function"];
  const auto given = function.find("parameters");
  const bool none = given == function.end() || given->is_null() || given->empty();
  use.an_object = true;
  return read_schema(none ? Json{{"properties", Json::object()}} : *given,
                     fmt::format("tools[{}].function.parameters", i), use);
}

// Nobody asked for the parameters of a tool that is not strict to be held: what cannot be must not stop the call.
Json forced_parameters(const Json& tool, size_t i) {
  if (is_strict(tool)) return parameters(tool, i);
  try {
    return parameters(tool, i);
  } catch (const BadRequest&) {
    return {{"type", "object"}, {"additionalProperties", true}};
  }
}

Json call_tag(const CallForm& form, const Json& tools, size_t i) {
  const Json& tool = tools[i];
  const std::string begin = fmt::format("{}{}{}", form.before_name, name_of(tool), form.after_name);
  if (!is_strict(tool)) return tag(begin, {{"type", "any_text"}}, form.call_end);
  Json content = Json::array();
  if (form.numbered) content.push_back({{"type", "regex"}, {"pattern", "[0-9]{1,4}"}});
  if (!form.before_arguments.empty()) content.push_back(fixed(form.before_arguments));
  content.push_back(form.tags ? tagged_arguments(*form.tags, tools, i, parameters(tool, i, {.bare_strings = true}))
                              : json_format(parameters(tool, i)));
  return tag(begin, sequence(std::move(content)), fmt::format("{}{}", form.after_arguments, form.call_end));
}

Json call_tags(const CallForm& form, const Json& tools) {
  Json tags = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) tags.push_back(call_tag(form, tools, i));
  return tags;
}

}  // namespace

// A tag for each function rather than one schema for the array: the references inside `parameters` stay what they are.
Json calls_array(const Json& tools, const std::string& name, bool one_call) {
  Json calls = Json::array();
  for (size_t i = 0; i < tools.size(); ++i) {
    if (!name.empty() && name_of(tools[i]) != name) continue;
    calls.push_back(tag(fmt::format("{{\"name\": {}, \"parameters\": ", dump(Json(name_of(tools[i])))),
                        json_format(forced_parameters(tools[i], i)), "}"));
  }
  return sequence(Json::array({fixed("["), list_of(std::move(calls), ", ", one_call), fixed("]")}));
}

bool has_strict(const Json& tools) { return std::any_of(tools.begin(), tools.end(), is_strict); }

Json calls_alone(const CallForm& form, const Json& tools, bool one_call) {
  Json calls = list_of(call_tags(form, tools), form.between, one_call);
  return form.section_begin.empty() ? calls : tag(form.section_begin, std::move(calls), form.section_end);
}

Json calls_amid_text(const CallForm& form, const Json& tools, bool one_call) {
  Json excludes = Json::array();
  if (!form.without_opener.empty()) excludes.push_back(form.without_opener);
  const bool sections = !form.section_begin.empty();
  return {{"type", "triggered_tags"},
          {"triggers", Json::array({form.opener})},
          {"tags", sections ? Json::array({calls_alone(form, tools, one_call)}) : call_tags(form, tools)},
          {"excludes", std::move(excludes)},
          {"stop_after_first", one_call}};
}

Json call_beginnings(const CallForm& form) {
  Json texts = Json::array({form.opener});
  if (!form.without_opener.empty()) texts.push_back(form.without_opener);
  return texts;
}

}  // namespace kt
