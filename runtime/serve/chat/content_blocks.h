#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/serve/json.h"

namespace kt {

// What the content of one message holds, in OpenAI's parts or Anthropic's blocks; clients mix them.
struct ContentBlocks {
  std::vector<std::string> texts;
  std::string thinking;
  Json calls = Json::array();    // of tool_use blocks: OpenAI's, their arguments as given
  Json results = Json::array();  // of tool_result blocks: messages of the role tool
};

// content: a string, a part, a list of strings and parts, or null. Pictures, documents and whatever else a text model
// cannot read become a line that says so. Throws BadRequest for what is no content at all.
ContentBlocks read_content(const Json& content, const std::string& path);

// What templates take for content: "" for no text, a string for one, else a list of text parts.
Json content_of(std::vector<std::string> texts);

// Such content as one string.
std::string text_of(const Json& content, std::string_view between);

}  // namespace kt
