#include "runtime/serve/chat/content_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "runtime/serve/errors.h"
#include "runtime/serve/fields.h"

namespace kt {
namespace {

constexpr size_t kMaxNameBytes = 200;  // of what is left out

// The first of some members that is a string; "" without one.
std::string first_string(const Json& object, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto member = object.find(name);
    if (member != object.end() && member->is_string()) return member->get<std::string>();
  }
  return "";
}

std::string_view kind_of_part(std::string_view type) {
  if (type == "image_url" || type == "input_image") return "image";
  if (type == "input_audio" || type == "audio_url") return "audio";
  if (type == "video_url" || type == "input_video") return "video";
  if (type == "file" || type == "input_file" || type == "container_upload") return "document";
  return type.empty() ? "part" : type.substr(0, kMaxNameBytes);
}

std::string left_out(const Json& part, const std::string& type) {
  const auto file = part.find("file");
  std::string name = first_string(part, {"filename", "title", "name", "tool_name"});
  if (name.empty() && file != part.end() && file->is_object()) name = first_string(*file, {"filename"});
  if (!name.empty()) name = fmt::format(" \"{}\"", std::string_view(name).substr(0, kMaxNameBytes));
  return fmt::format("[{}{}: this model reads text only]", kind_of_part(type), name);
}

class Reader {
 public:
  ContentBlocks take() { return std::move(blocks_); }

  void add(const Json& content, const std::string& path) {
    if (content.is_array()) {
      for (size_t i = 0; i < content.size(); ++i) add_part(content[i], element_of(path, i));
    } else if (!content.is_null()) {
      add_part(content, path);
    }
  }

 private:
  void add_part(const Json& given, const std::string& path) {
    if (given.is_string()) return add_text(given.get<std::string>());
    if (!given.is_object())
      throw BadRequest(path, fmt::format("{}: expected a text or a list of parts, found {}", path, kind_of(given)));
    const Fields part(given, path);
    std::string type;
    part.read("type", type);
    if (type == "text" || type == "input_text" || type == "output_text") {
      std::string text;
      if (!part.read("text", text)) throw BadRequest(part.path("text"), part.path("text") + ": is required");
      return add_text(std::move(text));
    }
    if (type == "refusal") return add_text(first_string(given, {"refusal"}));
    if (type == "thinking" || type == "reasoning") {
      blocks_.thinking += first_string(given, {"thinking", "text"});
    } else if (type == "tool_use") {
      add_call(given);
    } else if (type == "tool_result") {
      add_result(part);
    } else if (type == "document" || type == "search_result") {
      add_document(part, type);
    } else if (type != "redacted_thinking") {  // encrypted by another server: nobody here can read it
      if (given.contains("text") && given["text"].is_string()) return add_text(given["text"].get<std::string>());
      add_line(left_out(given, type));
    }
  }

  void add_call(const Json& block) {
    const auto input = block.find("input");
    blocks_.calls.push_back(
        {{"id", first_string(block, {"id"})},
         {"type", "function"},
         {"function",
          {{"name", first_string(block, {"name"})}, {"arguments", input == block.end() ? Json() : *input}}}});
  }

  void add_result(const Fields& block) {
    Reader inner;
    if (const Json* content = block.find("content")) inner.add(*content, block.path("content"));
    std::string id;
    block.read("tool_use_id", id);
    blocks_.results.push_back(
        {{"role", "tool"}, {"tool_call_id", id}, {"content", content_of(std::move(inner.blocks_.texts))}});
  }

  // Documents that are texts are read: {"source": {"type": "text", "data": ...}}, or with parts as "content".
  void add_document(const Fields& block, const std::string& type) {
    Reader inner;
    const Json* source = block.find("source");
    if (source && source->is_object()) {
      const Fields fields(*source, block.path("source"));
      const std::string kind = first_string(*source, {"type"});
      if (kind == "text") inner.add_text(first_string(*source, {"data"}));
      if (kind == "content" && fields.find("content")) inner.add(*fields.find("content"), fields.path("content"));
    }
    if (const Json* content = block.find("content")) inner.add(*content, block.path("content"));
    if (inner.blocks_.texts.empty()) return add_line(left_out(block.json(), type));
    std::string title = first_string(block.json(), {"title"});
    if (source && source->is_string()) title += (title.empty() ? "" : "\n") + source->get<std::string>();
    if (!title.empty()) add_line(std::move(title));
    for (std::string& text : inner.blocks_.texts) add_line(std::move(text));
  }

  void add_text(std::string text) {
    if (std::exchange(line_open_, false) && !blocks_.texts.empty()) {
      blocks_.texts.back() += "\n" + text;
    } else {
      blocks_.texts.push_back(std::move(text));
    }
  }

  // Stands on its own line, however a template joins texts.
  void add_line(std::string text) {
    line_open_ = true;
    add_text(std::move(text));
    line_open_ = true;
  }

  ContentBlocks blocks_;
  bool line_open_ = false;  // what comes next begins a line
};

}  // namespace

ContentBlocks read_content(const Json& content, const std::string& path) {
  Reader reader;
  reader.add(content, path);
  return reader.take();
}

Json content_of(std::vector<std::string> texts) {
  if (texts.empty()) return "";
  if (texts.size() == 1) return std::move(texts.front());
  Json parts = Json::array();
  for (std::string& text : texts) parts.push_back({{"type", "text"}, {"text", std::move(text)}});
  return parts;
}

std::string text_of(const Json& content, std::string_view between) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  for (const Json& part : content) {
    if (&part != &content.front()) text += between;
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

}  // namespace kt
