#include "runtime/client/conversation.h"

#include <chrono>
#include <utility>

#include "runtime/client/event_stream.h"
#include "runtime/client/http_call.h"
#include "runtime/client/interrupt.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

std::string text_member(const Json& object, const char* name) {
  const auto member = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

template <class T = int>
T number_member(const Json& object, const char* name) {
  const auto member = object.find(name);
  return member != object.end() && member->is_number_integer() ? member->get<T>() : T{0};
}

// Fills an answer from the events of one response.
class AnswerReader {
 public:
  AnswerReader(ChatAnswer& answer, const Listener& listener) : answer_(answer), listener_(listener) {}

  void on_data(std::string_view data) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    const Json event = Json::parse(data, nullptr, false);
    if (!event.is_object()) {
      answer_.error = "the server sent an event that is no JSON object";
    } else if (event.contains("error")) {
      answer_.error = error_message(data);
    } else {
      if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
        answer_.prompt_tokens = number_member(*usage, "prompt_tokens");
        answer_.completion_tokens = number_member(*usage, "completion_tokens");
      }
      take_progress(event);
      const auto choices = event.find("choices");
      if (choices != event.end() && choices->is_array() && !choices->empty()) on_choice(choices->front());
    }
  }

  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool done() const { return done_; }
  Waiting waiting() const { return {.seconds = seconds(), .progress = progress_}; }

 private:
  // Any other event means that the prompt was read.
  void take_progress(const Json& event) {
    progress_.reset();
    const auto told = event.find("prompt_progress");
    if (told == event.end() || !told->is_object()) return;
    progress_ = ReadingProgress{.read = number_member<long>(*told, "processed"),
                                .total = number_member<long>(*told, "total"),
                                .cached = number_member<long>(*told, "cache"),
                                .seconds = static_cast<double>(number_member<long>(*told, "time_ms")) / 1000};
  }

  void on_choice(const Json& choice) {
    const auto delta = choice.is_object() ? choice.find("delta") : choice.end();
    if (!choice.is_object() || delta == choice.end()) return;
    add(text_member(*delta, "reasoning_content"), answer_.reasoning, true);
    add(text_member(*delta, "content"), answer_.text, false);
    if (std::string reason = text_member(choice, "finish_reason"); !reason.empty())
      answer_.finish_reason = std::move(reason);
  }

  void add(const std::string& piece, std::string& whole, bool is_reasoning) {
    if (piece.empty()) return;
    if (answer_.first_s == 0) answer_.first_s = seconds();
    whole += piece;
    listener_.on_piece(piece, is_reasoning);
  }

  ChatAnswer& answer_;
  const Listener& listener_;
  Clock::time_point start_ = Clock::now();
  std::optional<ReadingProgress> progress_;
  bool done_ = false;
};

}  // namespace

double ChatAnswer::tokens_per_s() const {
  return completion_tokens > 1 && total_s > first_s ? (completion_tokens - 1) / (total_s - first_s) : 0;
}

Conversation::Conversation(Endpoint endpoint, ChatSettings settings)
    : endpoint_(std::move(endpoint)), settings_(std::move(settings)) {
  clear();
}

void Conversation::clear() {
  messages_ = Json::array();
  last_question_.clear();
  last_remembered_ = false;
  set_system(settings_.system);
}

void Conversation::set_system(std::string text) {
  const bool has_system = !messages_.empty() && messages_[0]["role"] == "system";
  if (has_system) messages_.erase(0);
  const Json message = {{"role", "system"}, {"content", text}};
  if (!text.empty()) messages_.insert(messages_.begin(), message);
  settings_.system = std::move(text);
}

Json Conversation::to_json() const {
  Json body = {{"model", settings_.model}, {"messages", messages_}};
  body.update(settings_.parameters);
  return body;
}

std::string Conversation::request_body() const {
  Json body = to_json();
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (settings_.progress) body["return_progress"] = true;
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ChatAnswer Conversation::ask(std::string question, const Listener& listener) {
  constexpr std::chrono::milliseconds kTick{100};
  last_question_ = question;
  messages_.push_back({{"role", "user"}, {"content", std::move(question)}});

  ChatAnswer answer;
  AnswerReader reader(answer, listener);
  EventStream events([&](std::string_view data) { reader.on_data(data); });
  int status = 0;
  std::string refusal;  // the body of an answer that is no stream
  {
    const Interruptible interruptible;
    HttpClient client;
    client.start(endpoint_, "/v1/chat/completions", request_body(),
                 {.on_status = [&](int s) { status = s; },
                  .on_body =
                      [&](std::string_view piece) {
                        if (status == 200)
                          events.push(piece);
                        else
                          refusal += piece;
                      },
                  .on_end =
                      [&](std::string error) {
                        if (answer.error.empty()) answer.error = std::move(error);
                      }});
    while (client.is_busy() && !interruptible.happened()) {
      client.wait(kTick);
      if (answer.first_s == 0 && listener.on_wait) listener.on_wait(reader.waiting());
    }
    answer.cancelled = client.is_busy();
  }

  answer.total_s = reader.seconds();
  if (status != 0 && status != 200)
    answer.error = "the server answered " + std::to_string(status) + ": " + error_message(refusal);
  else if (!answer.cancelled && answer.error.empty() && !reader.done())
    answer.error = "the stream ended without [DONE]";
  last_remembered_ = !answer.text.empty();
  if (last_remembered_)
    messages_.push_back({{"role", "assistant"}, {"content", answer.text}});
  else
    messages_.erase(messages_.size() - 1);
  return answer;
}

std::optional<ChatAnswer> Conversation::retry(const Listener& listener) {
  if (last_question_.empty()) return std::nullopt;
  if (last_remembered_) messages_.erase(messages_.size() - 1), messages_.erase(messages_.size() - 1);
  return ask(last_question_, listener);
}

}  // namespace kt
