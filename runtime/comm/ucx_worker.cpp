#include "runtime/comm/ucx_worker.h"

#include <fmt/format.h>
#include <ucs/debug/log_def.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "runtime/base/error.h"

namespace kt {
namespace {

[[noreturn]] void fail_ucx(std::string_view call, ucs_status_t status) {
  const auto given = [](const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "not set";
  };
  fail(kExitUsage,
       "UCX: {}: {} (UCX_TLS is {}, UCX_NET_DEVICES is {})\n"
       "  UCX_NET_DEVICES names interfaces that reach all machines, UCX_TLS ways, such as tcp,self,sm; or take "
       "transport mpi",
       call, ucs_status_string(status), given("UCX_TLS"), given("UCX_NET_DEVICES"));
}

#define KT_UCX(call)                                     \
  do {                                                   \
    const ucs_status_t kt_status = (call);               \
    if (kt_status != UCS_OK) fail_ucx(#call, kt_status); \
  } while (false)

// Inside a machine UCX asks now and then whether a rank is still there, by default every 20 s.
constexpr const char* kAskAfter = "1s";

ucs_log_func_rc_t write_to_stderr(const char*, unsigned, const char*, ucs_log_level_t level,
                                  const ucs_log_component_config_t*, const char* format, va_list values) {
  char text[1024];
  std::vsnprintf(text, sizeof text, format, values);
  std::fprintf(stderr, "UCX %s %s\n", ucs_log_level_names[level], text);
  return UCS_LOG_FUNC_RC_STOP;
}

// UCX logs to stdout, which has answers and reports, where UCX_LOG_FILE does not say otherwise.
void keep_stdout_clean() {
  static const bool done = [] {
    if (!std::getenv("UCX_LOG_FILE")) ucs_log_push_handler(write_to_stderr);
    return true;
  }();
  (void)done;
}

}  // namespace

UcxWorker::UcxWorker() {
  keep_stdout_clean();
  try {
    open();
  } catch (...) {
    close();
    throw;
  }
}

UcxWorker::~UcxWorker() { close(); }

void UcxWorker::open() {
  ucp_config_t* config = nullptr;
  KT_UCX(ucp_config_read(nullptr, nullptr, &config));
  if (!std::getenv("UCX_KEEPALIVE_INTERVAL")) ucp_config_modify(config, "KEEPALIVE_INTERVAL", kAskAfter);
  ucp_params_t wanted{};
  wanted.field_mask = UCP_PARAM_FIELD_FEATURES;
  wanted.features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP;
  const ucs_status_t status = ucp_init(&wanted, config, &context_);
  ucp_config_release(config);
  if (status != UCS_OK) fail_ucx("ucp_init", status);

  ucp_worker_params_t worker{};
  worker.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  KT_UCX(ucp_worker_create(context_, &worker, &worker_));
  KT_UCX(ucp_worker_get_efd(worker_, &event_fd_));
}

void UcxWorker::close() {
  ucp_request_param_t at_once{};
  at_once.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  at_once.flags = UCP_EP_CLOSE_FLAG_FORCE;
  std::vector<void*> requests;
  for (const Peer& peer : peers_)
    if (peer.endpoint) requests.push_back(ucp_ep_close_nbx(peer.endpoint, &at_once));
  for (void* request : requests) {
    while (status_of(request) == UCS_INPROGRESS) ucp_worker_progress(worker_);
    release(request);
  }
  if (worker_) ucp_worker_destroy(worker_);
  if (context_) ucp_cleanup(context_);
}

std::string UcxWorker::address() const {
  ucp_address_t* bytes = nullptr;
  size_t size = 0;
  KT_UCX(ucp_worker_get_address(worker_, &bytes, &size));
  std::string address(reinterpret_cast<const char*>(bytes), size);
  ucp_worker_release_address(worker_, bytes);
  return address;
}

void UcxWorker::connect(std::span<const std::string> addresses, int rank) {
  peers_.resize(addresses.size());
  std::vector<size_t> unreached;
  ucs_status_t why = UCS_OK;
  for (size_t r = 0; r < addresses.size(); ++r) {
    ucp_ep_params_t endpoint{};
    endpoint.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS;
    endpoint.address = reinterpret_cast<const ucp_address_t*>(addresses[r].data());
    if (r != static_cast<size_t>(rank)) {
      endpoint.field_mask |= UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
      endpoint.err_mode = UCP_ERR_HANDLING_MODE_PEER;
      endpoint.err_handler.cb = [](void* peer, ucp_ep_h, ucs_status_t) { static_cast<Peer*>(peer)->lost = true; };
      endpoint.err_handler.arg = &peers_[r];
    }
    const ucs_status_t status = ucp_ep_create(worker_, &endpoint, &peers_[r].endpoint);
    if (status == UCS_OK) continue;
    unreached.push_back(r);
    why = status;
  }
  if (!unreached.empty())
    fail_ucx(fmt::format("no way to rank{} {}", unreached.size() == 1 ? "" : "s", fmt::join(unreached, ", ")), why);
}

bool UcxWorker::arm() { return ucp_worker_arm(worker_) == UCS_OK; }

void* UcxWorker::start_flush() {
  const ucp_request_param_t plain{};
  return ucp_worker_flush_nbx(worker_, &plain);
}

}  // namespace kt
