#pragma once

#include <ucp/api/ucp.h>

#include <span>
#include <string>
#include <vector>

namespace kt {

// A UCP worker of its own context, and an endpoint to every rank. One thread at a time may use it. Everything throws
// Error(kExitUsage) where UCX does not start, naming the variables that choose its networks.
class UcxWorker {
 public:
  UcxWorker();
  ~UcxWorker();  // closes at once: what is on its way may be lost
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  std::string address() const;
  void connect(std::span<const std::string> addresses, int rank);  // of every rank; `rank` is this one

  ucp_worker_h get() const { return worker_; }
  ucp_ep_h to(int rank) const { return peers_[static_cast<size_t>(rank)].endpoint; }
  // UCX has found out that the rank or the way to it is gone. What came before can still be received.
  bool lost(int rank) const { return peers_[static_cast<size_t>(rank)].lost; }

  void progress() { ucp_worker_progress(worker_); }
  // True: from now on anything that comes makes event_fd() readable. False: something has come, progress() is due.
  bool arm();
  int event_fd() const { return event_fd_; }

  // What was sent has left this rank when it is done; null: it is.
  void* start_flush();

 private:
  struct Peer {
    ucp_ep_h endpoint = nullptr;
    bool lost = false;
  };
  void open();
  void close();

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  std::vector<Peer> peers_;  // by rank; endpoints point into it
};

// Of what a call of UCP returned: a request, or its outcome if there was none to be made.
inline ucs_status_t status_of(void* request) {
  return UCS_PTR_IS_PTR(request) ? ucp_request_check_status(request) : UCS_PTR_RAW_STATUS(request);
}
inline void release(void* request) {
  if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

}  // namespace kt
