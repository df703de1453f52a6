#pragma once

#include <map>
#include <string>
#include <vector>

#include "runtime/serve/errors.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"

namespace kt {

// How a client knows what the model knows as a function.
struct ResponseTool {
  enum class Kind : uint8_t {
    function,
    custom,  // its input is a text, which is the function's only parameter
    search,  // "tool_search" by the client: its results are further tools
  } kind = Kind::function;
  std::string name, name_space;
};

// The tools of a request to /v1/responses: functions, custom tools, namespaces of both, and tool search by the client.
// OpenAI's own, such as web_search, are left out beside those, since agents send them to every server; where there
// are no others, they are refused.
struct ResponseTools {
  Json chat = Json::array();                  // as chats have them
  std::vector<std::string> paths;             // of those, in the request
  Json offered = Json::array();               // as the client has them
  std::map<std::string, ResponseTool> named;  // by the model's name

  ResponseTool find(const std::string& name) const;  // one that the model made up is a function
};

// Reads `tools`, and what tool searches and additional_tools among the items have added. Throws BadRequest.
ResponseTools read_response_tools(const Fields& request, const Json& items);

// `tool_choice` as chats have it. Throws BadRequest.
Json read_response_tool_choice(const Fields& request);

// A tool's name for the model.
std::string model_name(const std::string& name, const std::string& name_space);

// The text in a custom tool's arguments (what a model wrote in their place is taken as it is), and the other way.
std::string custom_input(const std::string& arguments);
std::string custom_arguments(const std::string& input);

}  // namespace kt
