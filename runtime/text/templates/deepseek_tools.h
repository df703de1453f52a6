#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// What DeepSeek V3.2 writes around a call: "<｜DSML｜invoke ...>".
inline constexpr std::string_view kDsml = "｜DSML｜";

// The text that tells the model about its tools, with places to fill in: a Python format string with the fields
// tool_schemas, dsml_token, thinking_start_token and thinking_end_token.
class ToolsText {
 public:
  // Throws std::runtime_error for a format that is wrong or has other fields.
  explicit ToolsText(std::string_view format);

  // schemas: one JSON text a line.
  std::string with(std::string_view schemas) const;

 private:
  std::vector<std::string> parts_;  // the schemas stand between them
};

// Two texts are in use, alike but for blank lines between their paragraphs.
enum class ToolsHeader { kCompact, kSpaced };
ToolsText tools_text(ToolsHeader header);

// TOOLS_SYSTEM_TEMPLATE of a checkpoint's encoding/encoding_dsv32.py; nothing when there is no such file.
// Throws Error(kExitModel) when the file has no such string.
std::optional<ToolsText> read_tools_text(const std::filesystem::path& model);

}  // namespace kt
