#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/text/templates/deepseek_tools.h"

namespace kt {

// The arguments of encode_messages in the reference, DeepSeek-V3.2's encoding/encoding_dsv32.py.
struct DeepseekOptions {
  bool thinking = false;              // thinking_mode "thinking", otherwise "chat"
  bool drop_thinking = true;          // thinking mode: without the reasoning before the last user message
  bool add_default_bos_token = true;  // where there is no context
  nlohmann::ordered_json context = nlohmann::ordered_json::array();  // earlier messages, not printed again
  const ToolsText* tools = nullptr;                                  // null: the model has no tools
};

// Messages (from parse_exact) to a prompt that ends open after a user's or a tool's turn.
// Throws TemplateError, in the reference's words where it has any.
std::string encode_deepseek(const nlohmann::ordered_json& messages, const DeepseekOptions& options);

}  // namespace kt
