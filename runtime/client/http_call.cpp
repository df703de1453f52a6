#include "runtime/client/http_call.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Clock = std::chrono::steady_clock;

constexpr long kConnectTimeoutS = 10;

template <auto free>
struct FreedBy {
  void operator()(auto* pointer) const { free(pointer); }
};

// One request. What arrives is kept until libcurl has returned: events may throw, which C cannot bear.
struct Call {
  std::string url, body, arrived;
  HttpCallEvents events;
  std::unique_ptr<CURL, FreedBy<curl_easy_cleanup>> handle{curl_easy_init()};
  std::unique_ptr<curl_slist, FreedBy<curl_slist_free_all>> headers;
  std::vector<Call*>* with_arrivals;
  bool has_status = false;
  char reason[CURL_ERROR_SIZE] = "";

  void add_header(const std::string& line) { headers.reset(curl_slist_append(headers.release(), line.c_str())); }

  void tell_arrivals() {
    const std::string piece = std::exchange(arrived, {});
    tell_status();
    if (!piece.empty() && events.on_body) events.on_body(piece);
  }
  void tell_status() {
    long status = 0;
    curl_easy_getinfo(handle.get(), CURLINFO_RESPONSE_CODE, &status);
    if (status == 0 || std::exchange(has_status, true) || !events.on_status) return;
    events.on_status(static_cast<int>(status));
  }
};

size_t keep_arrival(char* data, size_t, size_t size, void* of) {
  Call& call = *static_cast<Call*>(of);
  if (call.arrived.empty()) call.with_arrivals->push_back(&call);
  call.arrived.append(data, size);
  return size;
}

// Names and addresses that no proxy is asked for.
std::string direct_hosts() {
  for (const char* name : {"no_proxy", "NO_PROXY"})
    if (const char* hosts = std::getenv(name))
      return std::string_view(hosts) == "*" ? "*" : fmt::format("localhost,127.0.0.0/8,::1,{}", hosts);
  return "localhost,127.0.0.0/8,::1";
}

}  // namespace

class HttpClient::Impl {
 public:
  Impl() {
    static const CURLcode ready = curl_global_init(CURL_GLOBAL_DEFAULT);
    if (ready != CURLE_OK || !multi_ || epoll_ < 0) fail(kExitTryAgain, "no HTTP client can be made");
    curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETFUNCTION, &Impl::watch_socket);
    curl_multi_setopt(multi_.get(), CURLMOPT_SOCKETDATA, this);
    curl_multi_setopt(multi_.get(), CURLMOPT_TIMERFUNCTION, &Impl::set_timer);
    curl_multi_setopt(multi_.get(), CURLMOPT_TIMERDATA, this);
  }
  ~Impl() {
    for (const auto& [handle, call] : calls_) curl_multi_remove_handle(multi_.get(), handle);
    multi_.reset();
    close(epoll_);
  }
  Impl(const Impl&) = delete;

  void start(const Endpoint& endpoint, std::string_view target, std::string body, HttpCallEvents events) {
    auto call = std::make_unique<Call>();
    CURL* handle = call->handle.get();
    call->url = endpoint.url + std::string(target);
    call->body = std::move(body);
    call->events = std::move(events);
    call->with_arrivals = &with_arrivals_;
    if (!endpoint.api_key.empty()) call->add_header("Authorization: Bearer " + endpoint.api_key);
    if (!call->body.empty()) {
      call->add_header("Content-Type: application/json");
      call->add_header("Expect:");  // the body follows at once
      curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(call->body.size()));
      curl_easy_setopt(handle, CURLOPT_POSTFIELDS, call->body.data());
    }
    curl_easy_setopt(handle, CURLOPT_HTTPHEADER, call->headers.get());
    curl_easy_setopt(handle, CURLOPT_URL, call->url.c_str());
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(handle, CURLOPT_NOPROXY, direct_hosts().c_str());
    if (const char* file = std::getenv("SSL_CERT_FILE")) curl_easy_setopt(handle, CURLOPT_CAINFO, file);
    curl_easy_setopt(handle, CURLOPT_USERAGENT, "ktmpi");
    curl_easy_setopt(handle, CURLOPT_CONNECTTIMEOUT, kConnectTimeoutS);
    curl_easy_setopt(handle, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(handle, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(handle, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(handle, CURLOPT_ERRORBUFFER, call->reason);
    curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &keep_arrival);
    curl_easy_setopt(handle, CURLOPT_WRITEDATA, call.get());
    calls_[handle] = std::move(call);
    curl_multi_add_handle(multi_.get(), handle);
  }

  bool is_busy() const { return !calls_.empty(); }

  void wait(std::chrono::duration<double> most) {
    if (due_) most = std::min<std::chrono::duration<double>>(most, *due_ - Clock::now());
    const double ms = std::clamp(std::ceil(most.count() * 1e3), 0.0, 1e6);
    epoll_event ready[64];
    const int count = epoll_wait(epoll_, ready, std::size(ready), static_cast<int>(ms));
    int running = 0;
    for (int i = 0; i < count; ++i) {
      const uint32_t events = ready[i].events;
      const int what = (events & EPOLLIN ? CURL_CSELECT_IN : 0) | (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                       (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
      curl_multi_socket_action(multi_.get(), ready[i].data.fd, what, &running);
    }
    if (due_ && *due_ <= Clock::now()) {
      due_.reset();
      curl_multi_socket_action(multi_.get(), CURL_SOCKET_TIMEOUT, 0, &running);
    }
    for (Call* call : std::exchange(with_arrivals_, {})) call->tell_arrivals();
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_.get(), &left))
      if (message->msg == CURLMSG_DONE) end(message->easy_handle, message->data.result);
  }

 private:
  void end(CURL* handle, CURLcode result) {
    const std::unique_ptr<Call> call = std::move(calls_.extract(handle).mapped());
    curl_multi_remove_handle(multi_.get(), handle);
    call->tell_status();
    if (!call->events.on_end) return;
    if (result == CURLE_OK) return call->events.on_end("");
    const std::string_view what = call->has_status                  ? "the answer broke off"
                                  : result == CURLE_COULDNT_CONNECT ? "no connection"
                                                                    : "no answer";
    call->events.on_end(
        fmt::format("{}: {}: {}", call->url, what, *call->reason ? call->reason : curl_easy_strerror(result)));
  }

  static int watch_socket(CURL*, curl_socket_t socket, int what, void* self, void*) {
    const int epoll = static_cast<Impl*>(self)->epoll_;
    epoll_event event{};
    event.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    event.data.fd = socket;
    if (what == CURL_POLL_REMOVE)
      epoll_ctl(epoll, EPOLL_CTL_DEL, socket, nullptr);
    else if (epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event) != 0)
      epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
    return 0;
  }

  static int set_timer(CURLM*, long ms, void* self) {
    std::optional<Clock::time_point>& due = static_cast<Impl*>(self)->due_;
    due.reset();
    if (ms >= 0) due = Clock::now() + std::chrono::milliseconds(ms);
    return 0;
  }

  std::unique_ptr<CURLM, FreedBy<curl_multi_cleanup>> multi_{curl_multi_init()};
  const int epoll_ = epoll_create1(EPOLL_CLOEXEC);
  std::optional<Clock::time_point> due_;  // when libcurl wants to be called, whatever arrives
  std::unordered_map<CURL*, std::unique_ptr<Call>> calls_;
  std::vector<Call*> with_arrivals_;
};

HttpClient::HttpClient() : impl_(std::make_unique<Impl>()) {}
HttpClient::~HttpClient() = default;
void HttpClient::start(const Endpoint& endpoint, std::string_view target, std::string body, HttpCallEvents events) {
  impl_->start(endpoint, target, std::move(body), std::move(events));
}
bool HttpClient::is_busy() const { return impl_->is_busy(); }
void HttpClient::wait(std::chrono::duration<double> most) { impl_->wait(most); }

HttpAnswer fetch(const Endpoint& endpoint, std::string_view target, std::string body, double timeout_s) {
  HttpClient client;
  HttpAnswer answer;
  client.start(endpoint, target, std::move(body),
               {.on_status = [&](int status) { answer.status = status; },
                .on_body = [&](std::string_view piece) { answer.body += piece; },
                .on_end = [&](std::string error) { answer.error = std::move(error); }});
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(timeout_s));
  while (client.is_busy() && Clock::now() < end) client.wait(end - Clock::now());
  if (client.is_busy()) answer.error = fmt::format("{}{}: no answer within {} s", endpoint.url, target, timeout_s);
  return answer;
}

std::string error_message(std::string_view body) {
  const auto json = nlohmann::json::parse(body, nullptr, false);
  if (json.is_object()) {
    const auto error = json.find("error");
    const auto& holder = error != json.end() && error->is_object() ? *error : json;
    if (const auto message = holder.find("message"); message != holder.end() && message->is_string())
      return message->get<std::string>();
    if (error != json.end() && error->is_string()) return error->get<std::string>();
  }
  constexpr size_t kShown = 300;
  return std::string(body.substr(0, kShown)) + (body.size() > kShown ? "..." : "");
}

}  // namespace kt
