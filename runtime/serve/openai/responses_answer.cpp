#include "runtime/serve/openai/responses_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "runtime/serve/chat/answer_reader.h"
#include "runtime/serve/openai/openai.h"
#include "runtime/serve/openai/responses_input.h"
#include "runtime/text/json/json_exact.h"

namespace kt {
namespace {

// A tool search's arguments are an object to clients; what a model wrote instead stays readable.
Json search_arguments(const std::string& text) {
  try {
    return parse_exact(text);
  } catch (const std::exception&) {
    return text;
  }
}

class ResponseAnswer : public Answer {
 public:
  ResponseAnswer(ResponseRequest request, const Chat& chat, const Tokenizer& tokenizer, ResponseStore& store)
      : request_(std::move(request)), tokenizer_(tokenizer), store_(store), reader_(chat) {}

  // A client that has gone does not come back to half an answer.
  ~ResponseAnswer() override {
    if (status_ == "in_progress") store_.erase(request_.stored.id, request_.stored.owner);
  }

  std::string start() override {
    const Json begun = response();
    keep(begun);
    emit("response.created", {{"response", begun}});
    emit("response.in_progress", {{"response", begun}});
    return std::exchange(events_, {});
  }

  std::string take(size_t, Emission emission) override {
    cached_tokens_ = std::max(cached_tokens_, emission.cached_tokens);
    if (request_.logprobs) std::move(emission.tokens.begin(), emission.tokens.end(), std::back_inserter(tokens_));
    for (const OutputPiece& piece : reader_.read(emission)) write(piece);
    return std::exchange(events_, {});
  }

  std::string finish() override {
    const Finish::Kind kind = reader_.finish->kind;
    const bool whole = kind == Finish::Kind::stop && reader_.whole_calls().size() == reader_.calls.size();
    close_item(whole ? "completed" : "incomplete");
    status_ = kind == Finish::Kind::stop ? "completed" : kind == Finish::Kind::length ? "incomplete" : "cancelled";
    return end(status_ == "completed" ? "response.completed" : "response.incomplete");
  }

  std::string fail(const ApiError& error) override {
    close_item("incomplete");
    status_ = "failed";
    error_ = {{"code", streams(error) ? error.code : "server_error"}, {"message", error.message}};
    return end("response.failed");
  }

  // As OpenAI's: agents that meet it in a stream shorten their conversation.
  bool streams(const ApiError& error) const override { return error.code == "context_length_exceeded"; }

 private:
  enum class Kind : uint8_t { reasoning, message, call };

  struct OpenItem {
    Kind kind;
    Json item;
    std::string text;   // of its only part, its arguments
    ResponseTool tool;  // calls
    Json logprobs = Json::array();
  };

  static Kind kind_of(OutputPiece::Kind kind) {
    switch (kind) {
      case OutputPiece::Kind::kReasoning: return Kind::reasoning;
      case OutputPiece::Kind::kContent: return Kind::message;
      default: return Kind::call;
    }
  }

  void emit(std::string_view type, Json members) {
    if (!request_.stream) return;
    members["sequence_number"] = sequence_number_++;
    events_ += named_event(type, std::move(members));
  }

  void emit_of_item(std::string_view type, Json members) {
    if (!request_.stream) return;
    Json all = {{"item_id", open_->item["id"]}, {"output_index", output_.size()}};
    all.update(members);
    emit(type, std::move(all));
  }

  void emit_of_part(std::string_view type, Json members) {
    if (!request_.stream) return;
    members["content_index"] = 0;
    emit_of_item(type, std::move(members));
  }

  void emit_of_summary(std::string_view type, Json members) {
    if (!request_.stream || !request_.summary) return;
    members["summary_index"] = 0;
    emit_of_item(type, std::move(members));
  }

  void write(const OutputPiece& piece) {
    const bool new_call = piece.kind == OutputPiece::Kind::kCallName;
    if (!open_ || new_call || kind_of(piece.kind) != open_->kind) {
      close_item("completed");
      open_item(piece);
    }
    // Tokens whose text was held back come with it; those of reasoning and calls are nobody's.
    const Json logprobs = logprob_entries(std::exchange(tokens_, {}), tokenizer_);
    if (new_call) return;
    open_->text += piece.text;
    switch (open_->kind) {
      case Kind::reasoning:
        emit_of_summary("response.reasoning_summary_text.delta", {{"delta", piece.text}});
        return emit_of_part("response.reasoning_text.delta", {{"delta", piece.text}});
      case Kind::message:
        for (const Json& entry : logprobs) open_->logprobs.push_back(entry);
        return emit_of_part("response.output_text.delta", {{"delta", piece.text}, {"logprobs", logprobs}});
      case Kind::call:
        if (open_->tool.kind == ResponseTool::Kind::function)
          emit_of_item("response.function_call_arguments.delta", {{"delta", piece.text}});
    }
  }

  void open_item(const OutputPiece& piece) {
    open_ = OpenItem{.kind = kind_of(piece.kind)};
    switch (open_->kind) {
      case Kind::reasoning:
        open_->item = {
            {"id", "rs_" + random_id()}, {"type", "reasoning"}, {"summary", Json::array()}, {"content", Json::array()}};
        break;
      case Kind::message:
        open_->item = {
            {"id", "msg_" + random_id()}, {"type", "message"}, {"role", "assistant"}, {"content", Json::array()}};
        break;
      case Kind::call: open_call(reader_.calls[static_cast<size_t>(piece.call)]);
    }
    open_->item["status"] = "in_progress";
    emit("response.output_item.added", {{"output_index", output_.size()}, {"item", open_->item}});
    if (open_->kind == Kind::call) return;
    if (open_->kind == Kind::reasoning) emit_of_summary("response.reasoning_summary_part.added", {{"part", summary()}});
    emit_of_part("response.content_part.added", {{"part", part()}});
  }

  void open_call(const ToolCall& call) {
    open_->tool = request_.tools.find(call.name);
    switch (open_->tool.kind) {
      case ResponseTool::Kind::function:
        open_->item = {{"id", "fc_" + random_id()}, {"type", "function_call"}, {"arguments", ""}};
        break;
      case ResponseTool::Kind::custom:
        open_->item = {{"id", "ctc_" + random_id()}, {"type", "custom_tool_call"}, {"input", ""}};
        break;
      case ResponseTool::Kind::search:
        open_->item = {{"id", "tsc_" + random_id()},
                       {"type", "tool_search_call"},
                       {"execution", "client"},
                       {"arguments", Json::object()}};
    }
    open_->item["call_id"] = call.id;
    if (open_->tool.kind != ResponseTool::Kind::search) open_->item["name"] = open_->tool.name;
    if (!open_->tool.name_space.empty()) open_->item["namespace"] = open_->tool.name_space;
  }

  Json part() const {
    if (open_->kind == Kind::reasoning) return {{"type", "reasoning_text"}, {"text", open_->text}};
    return {
        {"type", "output_text"}, {"text", open_->text}, {"annotations", Json::array()}, {"logprobs", open_->logprobs}};
  }

  Json summary() const { return {{"type", "summary_text"}, {"text", open_->text}}; }

  void close_item(const char* status) {
    if (!open_) return;
    switch (open_->kind) {
      case Kind::reasoning: close_reasoning(); break;
      case Kind::message: close_message(); break;
      case Kind::call: close_call();
    }
    open_->item["status"] = status;
    emit("response.output_item.done", {{"output_index", output_.size()}, {"item", open_->item}});
    output_.push_back(std::move(open_->item));
    open_.reset();
  }

  void close_reasoning() {
    emit_of_summary("response.reasoning_summary_text.done", {{"text", open_->text}});
    emit_of_summary("response.reasoning_summary_part.done", {{"part", summary()}});
    emit_of_part("response.reasoning_text.done", {{"text", open_->text}});
    emit_of_part("response.content_part.done", {{"part", part()}});
    open_->item["content"].push_back(part());
    if (request_.summary) open_->item["summary"].push_back(summary());
    if (request_.sealed) open_->item["encrypted_content"] = seal_reasoning(open_->text);
  }

  void close_message() {
    emit_of_part("response.output_text.done", {{"text", open_->text}, {"logprobs", open_->logprobs}});
    emit_of_part("response.content_part.done", {{"part", part()}});
    open_->item["content"].push_back(part());
  }

  // The text of a custom tool is known when its arguments are complete.
  void close_call() {
    Json& item = open_->item;
    switch (open_->tool.kind) {
      case ResponseTool::Kind::function:
        item["arguments"] = open_->text;
        return emit_of_item("response.function_call_arguments.done",
                            {{"name", open_->tool.name}, {"arguments", open_->text}});
      case ResponseTool::Kind::custom:
        item["input"] = custom_input(open_->text);
        emit_of_item("response.custom_tool_call_input.delta", {{"delta", item["input"]}});
        return emit_of_item("response.custom_tool_call_input.done", {{"input", item["input"]}});
      case ResponseTool::Kind::search: item["arguments"] = search_arguments(open_->text);
    }
  }

  Json usage() const {
    if (status_ == "in_progress" || status_ == "failed") return nullptr;
    return {{"input_tokens", request_.prompt_tokens},
            {"input_tokens_details", {{"cached_tokens", cached_tokens_}, {"cache_write_tokens", 0}}},
            {"output_tokens", reader_.completion_tokens},
            {"output_tokens_details", {{"reasoning_tokens", reader_.reasoning_tokens}}},
            {"total_tokens", request_.prompt_tokens + reader_.completion_tokens}};
  }

  Json response() const {
    Json response = {{"id", request_.stored.id},
                     {"object", "response"},
                     {"created_at", request_.created},
                     {"status", status_},
                     {"completed_at", status_ == "completed" ? Json(unix_seconds()) : Json(nullptr)},
                     {"error", error_},
                     {"incomplete_details", nullptr},
                     {"model", request_.model},
                     {"output", output_},
                     {"usage", usage()}};
    if (status_ == "incomplete") response["incomplete_details"] = {{"reason", "max_output_tokens"}};
    response.update(request_.echo);
    return response;
  }

  // The last event, or the whole body.
  std::string end(std::string_view type) {
    Json last = response();
    keep(last);
    if (!request_.stream) return dump(last);
    emit(type, {{"response", std::move(last)}});
    return std::exchange(events_, {});
  }

  void keep(const Json& response) {
    if (!request_.store) return;
    const bool deleted = kept_ && !store_.find(request_.stored.id, request_.stored.owner);
    if (deleted) return;
    kept_ = true;
    StoredResponse stored = request_.stored;
    stored.response = dump(response);
    stored.in_progress = status_ == "in_progress";
    store_.put(std::move(stored));
  }

  const ResponseRequest request_;
  const Tokenizer& tokenizer_;
  ResponseStore& store_;
  AnswerReader reader_;
  std::string status_ = "in_progress";
  bool kept_ = false;  // in the store, unless the client has deleted it
  Json error_;
  Json output_ = Json::array();  // the items that are closed
  std::optional<OpenItem> open_;
  std::vector<TokenLogprob> tokens_;  // whose text has not come yet
  std::string events_;                // that `take` and its like give away
  int cached_tokens_ = 0, sequence_number_ = 0;
};

}  // namespace

std::unique_ptr<Answer> make_response_answer(ResponseRequest request, const Chat& chat, const Tokenizer& tokenizer,
                                             ResponseStore& store) {
  return std::make_unique<ResponseAnswer>(std::move(request), chat, tokenizer, store);
}

}  // namespace kt
