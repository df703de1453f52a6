#include "runtime/text/answers/tool_parser.h"

#include <fmt/format.h>

#include <algorithm>

namespace kt {

using Kind = OutputPiece::Kind;

void CallWriter::content(std::string_view text) {
  if (open_) {
    amid_call_ += text;
    return;
  }
  const size_t end = text.find_last_not_of(kWhiteSpace) + 1;
  if (end > 0) {
    before_markup_ = 0;
    add_piece(pieces_, Kind::kContent, std::exchange(white_space_, {}));
    add_piece(pieces_, Kind::kContent, text.substr(0, end));
  }
  white_space_ += text.substr(end);
}

void CallWriter::begin_call(std::string_view name) {
  pieces_.push_back({Kind::kCallName, std::string(name), calls_++});
  open_ = true;
}

void CallWriter::arguments(std::string_view text) { add_piece(pieces_, Kind::kArguments, text, calls_ - 1); }

void CallWriter::end_call() {
  open_ = false;
  content(std::exchange(amid_call_, {}));
  before_markup_ = white_space_.size();
}

void CallWriter::inside_markup() { white_space_.resize(std::min(white_space_.size(), before_markup_)); }

void CallWriter::finish() {
  if (open_) end_call();
  if (calls_ == 0) add_piece(pieces_, Kind::kContent, std::exchange(white_space_, {}));
}

OutputPieces ToolParser::push(std::string_view text) {
  unread_.append(text);
  while (step()) {
  }
  return out_.take();
}

OutputPieces ToolParser::flush() {
  final_ = true;
  while (step()) {
  }
  cut_off_ = cut_off_ || out_.in_call();
  out_.finish();
  return out_.take();
}

void ToolParser::literal(size_t bytes) {
  out_.content(unread_.text().substr(0, bytes));
  unread_.drop(bytes);
}

void ToolParser::drop_cut_off_head() {
  cut_off_ = true;
  unread_.drop(unread_.text().size());
}

std::span<const ToolFormat> tool_formats() {
  using Starts = std::vector<ToolFormat::Start>;
  static const Starts hermes = {{"<tool_call>", "{"}};
  static const Starts deepseek = {{"<｜tool▁calls▁begin｜>", ""}, {"<｜tool▁call▁begin｜>", ""}};
  static const ToolFormat formats[] = {
      {"qwen3_coder", make_qwen3_coder_parser, {{"<tool_call>", "<function="}, {"<tool_call>", "{"}}},
      {"kimi_k2",
       make_kimi_k2_parser,
       {{"<|tool_calls_section_begin|>", ""}, {"<|tool_call_begin|>", ""}},
       /*ids_name_the_function=*/true},
      {"deepseekv32",
       make_deepseek_v32_parser,
       {{"<｜DSML｜function_calls>", "<｜DSML｜invoke name=\""}, {"<｜DSML｜invoke name=\"", ""}}},
      {"deepseekv31", make_deepseek_v31_parser, deepseek},
      {"deepseekv3", make_deepseek_v3_parser, deepseek},
      {"hermes", make_hermes_parser, hermes},
      {"qwen25", make_hermes_parser, hermes},
      {"qwen", make_hermes_parser, hermes},
      {"json_array", make_json_array_parser, {}},
  };
  return formats;
}

const ToolFormat* find_tool_format(std::string_view name) {
  const std::span<const ToolFormat> formats = tool_formats();
  const auto format = std::find_if(formats.begin(), formats.end(), [&](const auto& f) { return f.name == name; });
  return format == formats.end() ? nullptr : &*format;
}

std::string tool_call_id(const ToolFormat& format, std::string_view name, int k, std::string_view hex_digits) {
  if (format.ids_name_the_function) return fmt::format("functions.{}:{}", name, k);
  return fmt::format("call_{}", hex_digits.substr(0, 24));
}

}  // namespace kt
