#pragma once

#include <filesystem>
#include <memory>
#include <string_view>

#include "runtime/text/templates/chat_template.h"

namespace kt {

// Names of --chat-template for the conversations of DeepSeek V3.2, whose checkpoints have no template but code.
inline constexpr std::string_view kDeepseekTemplate = "deepseek-v3.2";
inline constexpr std::string_view kSpecialeTemplate = "deepseek-v3.2-speciale";  // refuses tools

// Whether a model folder without a template is one of DeepSeek V3.2: model_type deepseek_v32, or an architecture of
// V3 or V3.2 beside a folder encoding/.
bool uses_deepseek_template(const std::filesystem::path& model);

// name: one of the two, or "" for the one that the model's folder asks for. The configuration of Speciale is that of
// V3.2; only the name of its folder (or of its repository, in Hugging Face's cache) tells them apart.
// Throws Error(kExitModel).
//
// The template's options are thinking (or enable_thinking), drop_thinking, add_default_bos_token, context, and
// tools_header: "compact" (as in SGLang and vLLM) or "spaced" (as in mlx-lm and llama.cpp), by default the text in the
// checkpoint's encoding/encoding_dsv32.py, and compact where there is none. Messages are prepared as SGLang's server
// does it: members that are null are left out, content is a text, the first message is a system's and has the tools.
// With the option thinking_mode ("chat" or "thinking") instead of thinking, messages are encoded as they are, and tools
// are members of messages.
std::unique_ptr<ChatTemplate> load_deepseek_template(const std::filesystem::path& model, std::string_view name);

}  // namespace kt
