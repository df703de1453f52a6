#include "runtime/serve/anthropic/anthropic.h"

#include <fmt/format.h>

#include "runtime/serve/anthropic/anthropic_request.h"
#include "runtime/serve/chat/answer_reader.h"
#include "runtime/serve/chat/history.h"
#include "runtime/serve/chat/messages.h"
#include "runtime/serve/chat/params.h"
#include "runtime/serve/unsupported.h"

namespace kt {
namespace {

// A call's input must be an object to clients; what a model wrote instead stays readable.
Json input_of(const ToolCall& call) { return arguments_object(call.arguments); }

// An answer as content blocks: thinking, text and tool_use, one open at a time.
class MessageAnswer : public Answer {
 public:
  MessageAnswer(std::string id, std::string model, bool stream, const Chat& chat, int prompt_tokens)
      : id_("msg_" + std::move(id)),
        model_(std::move(model)),
        stream_(stream),
        prompt_tokens_(prompt_tokens),
        reader_(chat) {}

  std::string start() override {
    return named_event("message_start", {{"message", message(Json::array())}}).append(ping_events(Dialect::anthropic));
  }

  std::string take(size_t, Emission emission) override {
    cached_tokens_ = std::max(cached_tokens_, emission.cached_tokens);
    const OutputPieces pieces = reader_.read(emission);
    std::string events;
    if (!stream_) return events;
    for (const OutputPiece& piece : pieces) {
      if (!open_ || piece.kind == OutputPiece::Kind::kCallName || block_of(piece.kind) != *open_) {
        events += close_block();
        events += open_block(piece);
      }
      if (piece.kind != OutputPiece::Kind::kCallName) events += delta(piece);
    }
    return events;
  }

  std::string finish() override {
    if (!stream_) return dump(message(content()));
    return close_block() +
           named_event(
               "message_delta",
               {{"delta", {{"stop_reason", stop_reason()}, {"stop_sequence", stop_sequence()}}}, {"usage", usage()}}) +
           named_event("message_stop", Json::object());
  }

 private:
  enum class Block : uint8_t { thinking, text, tool_use };

  static Block block_of(OutputPiece::Kind kind) {
    switch (kind) {
      case OutputPiece::Kind::kReasoning: return Block::thinking;
      case OutputPiece::Kind::kContent: return Block::text;
      default: return Block::tool_use;
    }
  }

  std::string open_block(const OutputPiece& piece) {
    open_ = block_of(piece.kind);
    Json block;
    switch (*open_) {
      case Block::thinking: block = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}}; break;
      case Block::text: block = {{"type", "text"}, {"text", ""}}; break;
      case Block::tool_use: {
        const ToolCall& call = reader_.calls[static_cast<size_t>(piece.call)];
        block = {{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", Json::object()}};
      }
    }
    return named_event("content_block_start", {{"index", index_}, {"content_block", std::move(block)}});
  }

  std::string delta(const OutputPiece& piece) const {
    Json delta;
    switch (block_of(piece.kind)) {
      case Block::thinking: delta = {{"type", "thinking_delta"}, {"thinking", piece.text}}; break;
      case Block::text: delta = {{"type", "text_delta"}, {"text", piece.text}}; break;
      case Block::tool_use: delta = {{"type", "input_json_delta"}, {"partial_json", piece.text}};
    }
    return named_event("content_block_delta", {{"index", index_}, {"delta", std::move(delta)}});
  }

  // Clients expect a signature behind thinking and send it back; this server needs none.
  std::string close_block() {
    if (!open_) return "";
    std::string events;
    if (*open_ == Block::thinking)
      events = named_event("content_block_delta",
                           {{"index", index_}, {"delta", {{"type", "signature_delta"}, {"signature", ""}}}});
    events += named_event("content_block_stop", {{"index", index_}});
    open_.reset();
    ++index_;
    return events;
  }

  Json content() const {
    Json blocks = Json::array();
    if (!reader_.reasoning.empty())
      blocks.push_back({{"type", "thinking"}, {"thinking", reader_.reasoning}, {"signature", ""}});
    if (!reader_.content.empty()) blocks.push_back({{"type", "text"}, {"text", reader_.content}});
    for (const ToolCall& call : reader_.whole_calls())
      blocks.push_back({{"type", "tool_use"}, {"id", call.id}, {"name", call.name}, {"input", input_of(call)}});
    return blocks;
  }

  Json message(Json content) const {
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", model_},
            {"content", std::move(content)},
            {"stop_reason", stop_reason()},
            {"stop_sequence", stop_sequence()},
            {"usage", usage()}};
  }

  Json stop_reason() const {
    if (!reader_.finish) return nullptr;
    if (reader_.finish->kind == Finish::Kind::length) return "max_tokens";
    if (reader_.ends_in_calls()) return "tool_use";
    return stop_sequence().is_string() ? "stop_sequence" : "end_turn";
  }

  Json stop_sequence() const {
    const std::string* matched = reader_.finish ? std::get_if<std::string>(&reader_.finish->matched) : nullptr;
    return matched && !reader_.ends_in_calls() ? Json(*matched) : Json(nullptr);
  }

  // What came from the cache is not in input_tokens. Before the first token all counts as computed.
  Json usage() const {
    return {{"input_tokens", prompt_tokens_ - cached_tokens_},
            {"cache_creation_input_tokens", 0},
            {"cache_read_input_tokens", cached_tokens_},
            {"output_tokens", reader_.completion_tokens}};
  }

  const std::string id_, model_;
  const bool stream_;
  const int prompt_tokens_;
  int cached_tokens_ = 0;
  AnswerReader reader_;
  std::optional<Block> open_;
  int index_ = 0;  // of the block that is open or comes next
};

Chat render(const Fields& request, const ServedModel& model) {
  return render_chat(read_messages_request(request), model);
}

SamplingParams read_message_sampling(const Fields& fields, const ServedModel& model, const Chat& chat) {
  SamplingParams sampling = model_sampling(model);
  fields.read("temperature", sampling.temperature, {.min = 0});
  fields.read("top_p", sampling.top_p, {.min = 0, .max = 1, .above = true});
  fields.read("top_k", sampling.top_k, -1);
  if (sampling.top_k == 0) sampling.top_k = -1;
  if (const Json* stop = fields.find("stop_sequences")) sampling.stop = read_stop(*stop, "stop_sequences");
  if (!fields.read("max_tokens", sampling.max_new_tokens, 1)) throw BadRequest("max_tokens", "max_tokens: is required");
  adapt_sampling(chat, model, sampling);
  return sampling;
}

Job read_job(const Json& body, const ServedModel& model) {
  const Fields fields(body);
  refuse_unsupported(fields);
  std::string name = model.name;
  fields.read("model", name, kMaxModelNameBytes);
  Job job{.id = random_id(), .prompt_param = "messages", .dialect = Dialect::anthropic};
  fields.read("stream", job.stream);

  const Chat chat = render(fields, model);
  GenerateRequest generate;
  generate.rid = job.id;
  read_scheduling(fields, generate);
  generate.sampling = read_message_sampling(fields, model, chat);
  generate.input_ids = model.tokenizer->encode(chat.prompt);
  const int prompt_tokens = static_cast<int>(generate.input_ids.size());
  // Clients look for these words to shorten their history. An answer that asks for more than fits is cut by the engine.
  if (prompt_tokens >= model.max_context)
    throw BadRequest("messages", fmt::format("prompt is too long: {} tokens > {} maximum", prompt_tokens,
                                             std::max(0, model.max_context - 1)));
  job.requests.push_back(std::move(generate));
  order_grammar(chat.format, model, 0, job);
  job.answer = std::make_unique<MessageAnswer>(job.id, std::move(name), job.stream, chat, prompt_tokens);
  return job;
}

}  // namespace

OrError<Job> parse_messages(std::string_view body, const ServedModel& model) {
  return or_error([&] { return read_job(parse_body(body), model); });
}

OrError<std::string> count_tokens(std::string_view body, const ServedModel& model) {
  return or_error([&] {
    const Json request = parse_body(body);
    const Chat chat = render(Fields(request), model);
    return dump({{"input_tokens", model.tokenizer->encode(chat.prompt).size()}});
  });
}

}  // namespace kt
