#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/client/endpoint.h"

namespace kt {

struct ChatAnswer {
  std::string reasoning, text;
  std::string finish_reason;
  std::string error;       // "": none; what came before an error is there
  bool cancelled = false;  // by SIGINT
  int prompt_tokens = 0, completion_tokens = 0;
  double first_s = 0;  // until the first piece
  double total_s = 0;
  double tokens_per_s() const;  // after the first piece; 0: unknown
};

struct ChatSettings {
  std::string model;
  bool progress = false;  // the server is asked how far the prompt is: see reports_progress
  std::string system;     // "": none
  nlohmann::ordered_json parameters = nlohmann::ordered_json::object();  // temperature and others, as in a request
};

// How far the model is in reading a prompt.
struct ReadingProgress {
  long read = 0, total = 0;  // tokens
  long cached = 0;           // of those read, that were not computed
  double seconds = 0;        // since it began
};

struct Waiting {
  double seconds = 0;
  std::optional<ReadingProgress> progress = {};  // while the server tells it
};

// Who shows an answer.
struct Listener {
  std::function<void(std::string_view piece, bool is_reasoning)> on_piece;
  std::function<void(const Waiting&)> on_wait;  // about ten times a second until the first piece; may be null
};

// A chat over /v1/chat/completions that remembers what was said. Not for several threads.
class Conversation {
 public:
  Conversation(Endpoint endpoint, ChatSettings settings);

  // Sends the conversation and waits for the answer. While it waits, SIGINT ends the answer and nothing else. Question
  // and answer are remembered if there is any text in the answer.
  ChatAnswer ask(std::string question, const Listener& listener);
  // The last question again, its answer forgotten. Nothing if there was none.
  std::optional<ChatAnswer> retry(const Listener& listener);
  void clear();  // back to the system message

  const Endpoint& endpoint() const { return endpoint_; }
  const ChatSettings& settings() const { return settings_; }
  void set_model(std::string name) { settings_.model = std::move(name); }
  void set_system(std::string text);  // "": none; the conversation goes on
  nlohmann::ordered_json& parameters() { return settings_.parameters; }

  // {"model", "messages", parameters}: the body of a request that goes on from here.
  nlohmann::ordered_json to_json() const;

 private:
  std::string request_body() const;

  Endpoint endpoint_;
  ChatSettings settings_;
  nlohmann::ordered_json messages_;
  std::string last_question_;
  bool last_remembered_ = false;  // the last question and its answer stand at the end of messages_
};

}  // namespace kt
