#include "runtime/serve/openai/responses_tools.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "runtime/serve/fields.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

constexpr const char* kInput = "input";         // the parameter of custom tools
constexpr const char* kSearch = "tool_search";  // and the function of tool searches

const Json& require_list(const Json& list, const std::string& path) {
  if (!list.is_array()) throw BadRequest(path, fmt::format("{}: expected a list, found {}", path, kind_of(list)));
  return list;
}

std::string require_name(const Fields& fields) {
  std::string name;
  if (!fields.read("name", name) || name.empty())
    throw BadRequest(fields.path("name"), fields.path("name") + ": is required");
  return name;
}

// A chat's function, from members of the same names.
Json to_function(const Fields& tool, const std::string& name) {
  Json function = {{"name", name}};
  for (const char* member : {"description", "parameters", "strict"}) {
    if (const Json* value = tool.find(member)) function[member] = *value;
  }
  return function;
}

// A regular expression that the text has to match is held as a pattern. A Lark grammar cannot be held inside a JSON
// string: the model is told.
Json custom_to_function(const Fields& tool, const std::string& name) {
  Json input = {{"type", "string"}, {"description", "the whole text, as it is"}};
  Json function = {{"name", name}, {"description", ""}};
  std::string description;
  tool.read("description", description);
  if (const Json* given = tool.find("format")) {
    const Fields format(*given, tool.path("format"));
    std::string type, syntax, definition;
    format.read("type", type);
    format.read("syntax", syntax);
    format.read("definition", definition);
    if (type == "grammar" && syntax == "regex") {
      input["pattern"] = fmt::format("^(?:{})$", definition);
      function["strict"] = true;
    } else if (type == "grammar") {
      description += fmt::format("\nThe {} grammar of {}:\n{}", syntax, kInput, definition);
    }
  }
  function["description"] = description;
  function["parameters"] = {{"type", "object"},
                            {"properties", {{kInput, std::move(input)}}},
                            {"required", Json::array({kInput})},
                            {"additionalProperties", false}};
  return function;
}

class ToolReader {
 public:
  explicit ToolReader(ResponseTools& tools) : tools_(tools) {}

  void read(const Json& list, const std::string& path) {
    require_list(list, path);
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string at = element_of(path, i);
      if (read_one(Fields(list[i], at), at, "")) tools_.offered.push_back(list[i]);
    }
  }

  void refuse_none() const {
    if (left_out_.empty() || !tools_.chat.empty()) return;
    throw BadRequest("tools",
                     fmt::format("tools: this server has none of its own such as \"{}\"; give functions",
                                 fmt::join(left_out_, "\", \"")),
                     "unsupported");
  }

 private:
  bool read_one(const Fields& tool, const std::string& path, const std::string& name_space) {
    using enum ResponseTool::Kind;
    std::string type = "function", execution;
    tool.read("type", type);
    tool.read("execution", execution);
    if (type == "function") {
      const Json* nested = tool.find("function");  // as chats have it
      const Fields members = nested ? Fields(*nested, path + ".function") : tool;
      const std::string name = require_name(members);
      add({function, name, name_space}, to_function(members, model_name(name, name_space)), path);
    } else if (type == "custom") {
      const std::string name = require_name(tool);
      add({custom, name, name_space}, custom_to_function(tool, model_name(name, name_space)), path);
    } else if (type == kSearch && execution == "client") {
      add({search, kSearch, ""}, to_function(tool, kSearch), path);
    } else if (type == "namespace" && name_space.empty()) {
      return read_namespace(tool, path);
    } else {
      left_out_.insert(type);
      return false;
    }
    return true;
  }

  // What is said of all its tools is said with the first.
  bool read_namespace(const Fields& space, const std::string& path) {
    const size_t before = tools_.chat.size();
    const std::string name = require_name(space);
    const Json* list = space.find("tools");
    if (!list) throw BadRequest(path + ".tools", path + ".tools: is required");
    require_list(*list, path + ".tools");
    for (size_t i = 0; i < list->size(); ++i) {
      const std::string at = fmt::format("{}.tools[{}]", path, i);
      read_one(Fields((*list)[i], at), at, name);
    }
    if (tools_.chat.size() == before) return false;
    std::string description;
    space.read("description", description);
    Json& first = tools_.chat[before]["function"];
    const Json own = first.value("description", Json(""));
    if (!description.empty() && own.is_string())
      first["description"] = fmt::format("{}\n({}: {})", own.get_ref<const std::string&>(), name, description);
    return true;
  }

  void add(ResponseTool tool, Json function, const std::string& path) {
    const std::string name = function["name"];
    if (!tools_.named.emplace(name, std::move(tool)).second)
      throw BadRequest(path, fmt::format("{}: another tool has the name \"{}\" too", path, name));
    tools_.chat.push_back({{"type", "function"}, {"function", std::move(function)}});
    tools_.paths.push_back(path);
  }

  ResponseTools& tools_;
  std::set<std::string> left_out_;  // types
};

// {"type": "function", "name": ...}: a tool of the request by its name.
std::string chosen_name(const Fields& choice) {
  std::string type, name_space;
  choice.read("type", type);
  if (type == kSearch) return kSearch;
  if (type != "function" && type != "custom")
    throw BadRequest(choice.path("type"),
                     fmt::format("{}: this server has no tools of its own such as \"{}\"", choice.path("type"), type),
                     "unsupported");
  choice.read("namespace", name_space);
  const Json* nested = choice.find("function");  // as chats have it
  return model_name(require_name(nested ? Fields(*nested, choice.path("function")) : choice), name_space);
}

// {"type": "allowed_tools", "mode": ..., "tools": [...]}, with the model's names.
Json allowed_tools(const Json& given, const Fields& choice) {
  Json allowed = given;
  if (!choice.find("tools")) return allowed;
  const std::string path = choice.path("tools");
  for (size_t i = 0; i < require_list(given["tools"], path).size(); ++i)
    allowed["tools"][i] = {{"name", chosen_name(Fields(given["tools"][i], element_of(path, i)))}};
  return allowed;
}

}  // namespace

ResponseTools read_response_tools(const Fields& request, const Json& items) {
  ResponseTools tools;
  ToolReader reader(tools);
  if (const Json* list = request.find("tools")) reader.read(*list, request.path("tools"));
  for (size_t i = 0; i < items.size(); ++i) {
    const Fields item(items[i], fmt::format("input[{}]", i));
    std::string type;
    item.read("type", type);
    const Json* list = item.find("tools");
    if (list && (type == "tool_search_output" || type == "additional_tools")) reader.read(*list, item.path("tools"));
  }
  reader.refuse_none();
  return tools;
}

Json read_response_tool_choice(const Fields& request) {
  const Json* given = request.find("tool_choice");
  if (!given || !given->is_object()) return given ? *given : Json("auto");
  const Fields choice(*given, request.path("tool_choice"));
  std::string type;
  choice.read("type", type);
  if (type == "allowed_tools") return allowed_tools(*given, choice);
  return {{"type", "function"}, {"function", {{"name", chosen_name(choice)}}}};
}

ResponseTool ResponseTools::find(const std::string& name) const {
  const auto known = named.find(name);
  return known == named.end() ? ResponseTool{.name = name} : known->second;
}

std::string model_name(const std::string& name, const std::string& name_space) {
  if (name_space.empty()) return name;
  return name_space + (name_space.ends_with("__") ? "" : "__") + name;
}

std::string custom_input(const std::string& arguments) {
  try {
    const Json object = parse_exact(arguments);
    if (object.is_object() && object.size() == 1 && object.contains(kInput) && object[kInput].is_string())
      return object[kInput].get<std::string>();
  } catch (const std::exception&) {
  }
  return arguments;
}

std::string custom_arguments(const std::string& input) { return dump({{kInput, input}}); }

}  // namespace kt
