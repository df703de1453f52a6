#include "runtime/serve/http/http.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <future>
#include <list>
#include <map>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/serve/http/connection.h"
#include "runtime/serve/http/exchange.h"
#include "runtime/serve/http/grammar_desk.h"
#include "runtime/serve/http/listen.h"
#include "runtime/serve/http/metrics.h"
#include "runtime/serve/http/origin.h"
#include "runtime/serve/http/routes.h"

namespace kt {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::milliseconds kAcceptPause{100};  // when the process has no file descriptor left
constexpr std::string_view kFull =
    "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

// Open to the network, a server is called as its machine is.
HttpConfig with_machine_names(HttpConfig config) {
  if (is_loopback(config.host)) return config;
  for (std::string& name : machine_names()) config.host_names.push_back(std::move(name));
  return config;
}

}  // namespace

class HttpServer::Impl : public ConnectionEvents {
 public:
  Impl(HttpConfig given, const std::vector<int>& sockets)
      : config_(with_machine_names(std::move(given))),
        workers_(static_cast<size_t>(config_.workers)),
        grammar_desk_(io_, config_.grammar_threads, config_.grammar_timeout_s),
        stop_timer_(io_) {
    auto acceptors = sockets.empty() ? listen_on(io_, config_.host, config_.port) : listen_on(io_, sockets);
    for (tcp::acceptor& acceptor : acceptors) listeners_.emplace_back(std::move(acceptor));
    for (Listener& listener : listeners_) sockets_.push_back(listener.acceptor.native_handle());
    port_ = listeners_.front().acceptor.local_endpoint().port();
    allow_connections(config_.max_connections);
    for (Listener& listener : listeners_) accept(listener);
    thread_ = std::thread([this] { run(); });
  }

  int port() const { return port_; }
  const std::vector<int>& sockets() const { return sockets_; }
  const HttpConfig& config() const { return config_; }

  void serve(Engine& engine, ServedModel model) {
    std::promise<void> ready;
    asio::post(io_, [&] {
      service_.model = std::move(model);
      service_.engine = &engine;
      service_.started =
          std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
      ready.set_value();
    });
    ready.get_future().wait();
  }

  void end_requests(ApiError error) {
    asio::post(io_, [this, error = std::move(error)] {
      const auto open = exchanges_;  // failing takes them out of the set
      for (const auto& exchange : open) exchange->fail(error);
    });
  }

  void pause() {
    asio::post(io_, [this] {
      if (stopping_) return;
      paused_.emplace(io_.get_executor());
      error_code ignored;
      for (Listener& listener : listeners_) listener.acceptor.cancel(ignored);
      for (const auto& [connection, from] : connections_) connection->end_with_next_answer();
    });
  }

  void resume() {
    asio::post(io_, [this] {
      paused_.reset();
      for (Listener& listener : listeners_) accept(listener);
    });
  }

  void stop() {
    if (!thread_.joinable()) return;
    asio::post(io_, [this] { begin_stop(); });
    thread_.join();
    workers_.join();
    grammar_desk_.join();
  }

  std::variant<const Route*, HttpResponse> on_head(const HttpRequest& request) override {
    auto routed = find_route(request, service_);
    if (const HttpResponse* refusal = std::get_if<HttpResponse>(&routed)) count_refusal(*refusal);
    return routed;
  }

  void on_request(std::shared_ptr<Connection> connection, const Route& route, HttpRequest request) override {
    request.client = client_of(request, config_, connections_.at(connection).to_string());
    if (route.where == Route::Where::io) return conclude(route, std::move(connection), handle(route, request));
    asio::post(workers_, [this, &route, connection = std::move(connection), request = std::move(request)]() mutable {
      Outcome outcome = handle(route, request);
      request = {};
      asio::post(io_, [this, &route, connection = std::move(connection), outcome = std::move(outcome)]() mutable {
        conclude(route, std::move(connection), std::move(outcome));
      });
    });
  }

  void on_closed(Connection& connection) override {
    const auto found = connections_.find(connection.shared_from_this());
    if (--count_of_[found->second] == 0) count_of_.erase(found->second);
    connections_.erase(found);
    metrics_.connections = static_cast<int>(connections_.size());
    if (stopping_ && connections_.empty()) stop_timer_.cancel();
  }

 private:
  void run() {
    for (;;) {
      try {
        io_.run();
        return;
      } catch (const std::exception& e) {  // one request's trouble must not end the others'
        log_error("http: unexpected error: {}", e.what());
      }
    }
  }

  struct Listener {
    explicit Listener(tcp::acceptor given) : acceptor(std::move(given)), pause(acceptor.get_executor()) {}
    tcp::acceptor acceptor;
    asio::steady_timer pause;
    bool accepting = false;
  };

  void accept(Listener& listener) {
    if (stopping_ || paused_ || listener.accepting) return;
    listener.accepting = true;
    listener.acceptor.async_accept([this, &listener](error_code ec, tcp::socket socket) {
      listener.accepting = false;
      if (stopping_) return;
      if (ec && ec != asio::error::operation_aborted) return accept_later(listener);
      if (!ec) take(std::move(socket));
      accept(listener);
    });
  }

  void take(tcp::socket socket) {
    error_code ec;
    const asio::ip::address from = client_address(socket.remote_endpoint(ec).address());  // of one that has gone: any
    const auto count = count_of_.find(from);
    const bool one_more = count == count_of_.end() || count->second < config_.max_connections_of_one;
    if (connections_.size() < config_.max_connections && one_more) {
      const auto connection = std::make_shared<Connection>(std::move(socket), config_, metrics_, *this);
      connections_.emplace(connection, from);
      ++count_of_[from];
      metrics_.connections = static_cast<int>(connections_.size());
      if (paused_) connection->end_with_next_answer();
      connection->start();
    } else {
      socket.non_blocking(true, ec);
      socket.write_some(asio::buffer(kFull), ec);
    }
  }

  void accept_later(Listener& listener) {
    listener.pause.expires_after(kAcceptPause);
    listener.pause.async_wait([this, &listener](error_code) { accept(listener); });
  }

  Outcome handle(const Route& route, const HttpRequest& request) const {
    try {
      return route.handler(request, service_);
    } catch (const std::exception& e) {
      log_error("http: {} failed: {}, X-Request-Id {}{}{}", route.path, e.what(), request.request_id,
                request.traceparent.empty() ? "" : ", traceparent ", request.traceparent);
      return error_response({500, "the server failed on this request; its log says why", "", "internal_error"},
                            route.dialect);
    }
  }

  void conclude(const Route& route, std::shared_ptr<Connection> connection, Outcome outcome) {
    if (const HttpResponse* response = std::get_if<HttpResponse>(&outcome)) {
      count_refusal(*response);
      return connection->respond(*response);
    }
    if (const AbortCommand* command = std::get_if<AbortCommand>(&outcome)) {
      abort(*command);
      return connection->respond({.body = command->answer});
    }
    Job job = std::move(std::get<Job>(outcome));
    if (job.grammars.empty()) return start_exchange(route, std::move(connection), std::move(job));
    grammar_desk_.prepare(service_.model.compile_grammar, service_.model.find_grammar, std::move(job),
                          [this, &route, connection = std::move(connection)](OrError<Job> prepared) {
                            if (const ApiError* error = std::get_if<ApiError>(&prepared))
                              return conclude(route, connection, error_response(*error, route.dialect));
                            conclude(route, connection, std::move(std::get<Job>(prepared)));
                          });
  }

  void start_exchange(const Route& route, std::shared_ptr<Connection> connection, Job job) {
    if (connection->gone()) return connection->drop();
    if (const std::optional<ApiError> error = clash_of(job))
      return conclude(route, std::move(connection), error_response(*error, job.dialect));
    const auto exchange =
        std::make_shared<Exchange>(Exchange::Context{io_, *service_.engine, metrics_, config_,
                                                     route.access == Route::Access::open ? "" : route.path,
                                                     [this](Exchange& e) { exchanges_.erase(e.shared_from_this()); }},
                                   std::move(connection), std::move(job));
    exchanges_.insert(exchange);
    exchange->start();
  }

  // Why this job cannot run beside those that are open.
  std::optional<ApiError> clash_of(const Job& job) const {
    for (const GenerateRequest& request : job.requests)
      for (const auto& open : exchanges_)
        if (open->has_rid(request.rid))
          return ApiError{400, fmt::format("rid: a request with the id {} is running", request.rid), "rid",
                          "duplicate_rid"};
    const int most = config_.api_keys.empty() || job.client.empty() ? 0 : config_.max_requests_of_key;
    if (most > 0 && std::count_if(exchanges_.begin(), exchanges_.end(),
                                  [&](const auto& open) { return open->client() == job.client; }) >= most)
      return ApiError{429, fmt::format("{} requests with this key are open, and it may have no more", most), "",
                      "too_many_requests"};
    return std::nullopt;
  }

  void abort(const AbortCommand& command) {
    for (const auto& exchange : exchanges_) {
      if (command.all) {
        exchange->cancel_all();
      } else {
        exchange->cancel(command.rid);
      }
    }
  }

  void count_refusal(const HttpResponse& response) {
    if (response.status >= 400) ++metrics_.requests[{response.status, ""}];
  }

  void begin_stop() {
    stopping_ = true;
    paused_.reset();
    for (Listener& listener : listeners_) {
      close_own(listener.acceptor);
      listener.pause.cancel();
    }
    grammar_desk_.stop();
    const auto open = connections_;  // closing takes them out of the set
    for (const auto& [connection, from] : open) connection->close_when_done();
    if (connections_.empty()) return;
    stop_timer_.expires_after(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(config_.stop_timeout_s)));
    stop_timer_.async_wait([this](error_code) {
      const auto left = connections_;
      for (const auto& [connection, from] : left) connection->drop();
    });
  }

  const HttpConfig config_;
  Metrics metrics_;
  ResponseStore responses_{config_.max_stored_bytes};
  Service service_{config_, metrics_, responses_};
  asio::io_context io_{1};
  std::list<Listener> listeners_;                                                     // one for each address
  std::vector<int> sockets_;                                                          // theirs
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> paused_;  // io_ goes on without them
  asio::thread_pool workers_;
  GrammarDesk grammar_desk_;
  asio::steady_timer stop_timer_;
  std::unordered_map<std::shared_ptr<Connection>, asio::ip::address> connections_;  // and where they come from
  std::map<asio::ip::address, size_t> count_of_;                                    // connections
  std::unordered_set<std::shared_ptr<Exchange>> exchanges_;
  bool stopping_ = false;
  int port_ = 0;
  std::thread thread_;
};

HttpServer::HttpServer(HttpConfig config) : HttpServer(std::move(config), {}) {}
HttpServer::HttpServer(HttpConfig config, const std::vector<int>& sockets)
    : impl_(std::make_unique<Impl>(std::move(config), sockets)) {}
HttpServer::~HttpServer() { stop(); }
int HttpServer::port() const { return impl_->port(); }
std::string HttpServer::url() const {
  std::string host = impl_->config().host;
  if (host == "0.0.0.0" || host == "::")  // where others find all addresses of this machine
    if (const std::vector<std::string> names = machine_names(); !names.empty()) host = names.front();
  const std::string name = host.find(':') == host.npos ? host : "[" + host + "]";  // IPv6
  return fmt::format("http://{}:{}", name, impl_->port());
}
void HttpServer::serve(Engine& engine, ServedModel model) { impl_->serve(engine, std::move(model)); }
void HttpServer::end_requests(ApiError error) { impl_->end_requests(std::move(error)); }
std::vector<int> HttpServer::sockets() const { return impl_->sockets(); }
void HttpServer::pause() { impl_->pause(); }
void HttpServer::resume() { impl_->resume(); }
void HttpServer::stop() { impl_->stop(); }

}  // namespace kt
