#include "runtime/client/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>

#include "runtime/client/event_stream.h"
#include "runtime/client/http_call.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// Fills a record from the events of its response.
class RecordReader {
 public:
  RecordReader(LoadRecord& record, std::function<double()> now) : record_(record), now_(std::move(now)) {}

  void on_status(int status) { status_ = status; }
  void on_body(std::string_view piece) {
    if (status_ == 200)
      events_.push(piece);
    else
      refusal_ += piece;
  }
  void on_end(std::string error) {
    if (status_ != 0 && status_ != 200) error = fmt::format("{}: {}", status_, error_message(refusal_));
    if (record_.error.empty()) record_.error = std::move(error);
    if (record_.error.empty() && !done_) record_.error = "the stream ended without [DONE]";
    if (record_.first == 0) record_.first = record_.last = now_();
    if (record_.output_tokens == 0) record_.output_tokens = pieces_;
  }

 private:
  void on_data(std::string_view data) {
    if (data == "[DONE]") {
      done_ = true;
      return;
    }
    const Json event = Json::parse(data, nullptr, false);
    if (!event.is_object() || event.contains("error")) {
      record_.error = event.is_object() ? error_message(data) : "an event that is no JSON object";
      return;
    }
    const Json usage = event.value("usage", Json()), choices = event.value("choices", Json());
    if (usage.is_object()) {
      read_count(usage, "prompt_tokens", record_.prompt_tokens);
      read_count(usage, "completion_tokens", record_.output_tokens);
    }
    if (!choices.is_array() || choices.empty() || !choices[0].is_object()) return;
    const Json text = choices[0].value("text", Json());
    if (text.is_string() && !text.get_ref<const std::string&>().empty()) on_text();
  }

  static void read_count(const Json& usage, const char* name, int& count) {
    if (const auto member = usage.find(name); member != usage.end() && member->is_number_integer())
      count = member->get<int>();
  }

  void on_text() {
    const double now = now_();
    if (pieces_++ == 0)
      record_.first = now;
    else
      record_.gaps.push_back(now - record_.last);
    record_.last = now;
  }

  LoadRecord& record_;
  std::function<double()> now_;
  EventStream events_{[this](std::string_view data) { on_data(data); }};
  std::string refusal_;  // the body of an answer that is no stream
  int status_ = 0, pieces_ = 0;
  bool done_ = false;
};

// Runs the plan on one thread: arrivals by the clock, sending as the limit allows.
class LoadRun {
 public:
  LoadRun(const LoadPlan& plan, const std::function<void(const LoadRecord&)>& on_done)
      : plan_(plan), on_done_(on_done), random_(plan.seed) {
    result_.records.resize(plan.requests.size());
  }

  LoadResult run() {
    constexpr std::chrono::seconds kLong{60};
    start_ = next_arrival_ = Clock::now();
    arrive();
    while (client_.is_busy() || arrived_ < plan_.requests.size()) {
      client_.wait(arrived_ < plan_.requests.size() ? next_arrival_ - Clock::now() : kLong);
      arrive();
    }
    result_.duration = now();
    return std::move(result_);
  }

 private:
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

  // Arrivals keep to their times even when this thread is late.
  void arrive() {
    while (arrived_ < plan_.requests.size() && next_arrival_ <= Clock::now()) {
      waiting_.push_back(arrived_++);
      next_arrival_ += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(next_gap()));
    }
    send();
  }

  double next_gap() {
    if (std::isinf(plan_.requests_per_s)) return 0;
    const double uniform = std::ldexp(static_cast<double>(random_() >> 11), -53);  // [0, 1)
    return -std::log1p(-uniform) / plan_.requests_per_s;
  }

  void send() {
    while (!waiting_.empty() && (plan_.max_concurrency == 0 || running_ < plan_.max_concurrency)) {
      const size_t index = waiting_.front();
      waiting_.pop_front();
      result_.most_concurrent = std::max(result_.most_concurrent, ++running_);
      send(index);
    }
  }

  void send(size_t index) {
    LoadRecord& record = result_.records[index];
    record.prompt_tokens = plan_.requests[index].prompt_tokens;
    record.sent = now();
    const auto reader = std::make_shared<RecordReader>(record, [this] { return now(); });
    client_.start(plan_.endpoint, "/v1/completions", plan_.requests[index].body,
                  {.on_status = [reader](int status) { reader->on_status(status); },
                   .on_body = [reader](std::string_view piece) { reader->on_body(piece); },
                   .on_end =
                       [this, reader, &record](std::string error) {
                         reader->on_end(std::move(error));
                         --running_;
                         on_done_(record);
                         send();
                       }});
  }

  const LoadPlan& plan_;
  const std::function<void(const LoadRecord&)>& on_done_;
  std::mt19937_64 random_;
  HttpClient client_;
  Clock::time_point start_, next_arrival_;
  size_t arrived_ = 0;
  std::deque<size_t> waiting_;  // have arrived, are not sent
  int running_ = 0;
  LoadResult result_;
};

}  // namespace

LoadResult run_load(const LoadPlan& plan, const std::function<void(const LoadRecord&)>& on_done) {
  return LoadRun(plan, on_done).run();
}

}  // namespace kt
