// What ktmpi uses of libnccl, for emulated GPUs: ranks are threads or processes of one machine, and streams are
// simt::Queue. It is opened like the real one (KTMPI_NCCL_LIBRARY), returns before it is done like the real one, and
// fails as FAKE_NCCL says, a list of NAME=N:
//
//   version=N         that the library says it is
//   refuse=1          all are refused when they have come
//   break_after=N     the network fails after so many sums: the next one is never done, and the state says why
//   hang_after=N      the same, and nobody says anything
//
// FAKE_NCCL_LOG: a file that gets a line for each call.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/simt/streams.h"

namespace {

enum Result : int {
  kSuccess = 0,
  kSystemError = 2,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7
};
constexpr int kRanks = 8, kFloat64 = 8, kSum = 0;
constexpr size_t kMostValues = size_t{4} << 20;

thread_local std::string last_error;

int asked(const char* name, int otherwise) {
  const char* list = std::getenv("FAKE_NCCL");
  const std::string text = std::string(",") + (list ? list : ""), key = std::string(",") + name + "=";
  const size_t at = text.find(key);
  return at == std::string::npos ? otherwise : std::atoi(text.c_str() + at + key.size());
}

void note(const std::string& line) {
  const char* file = std::getenv("FAKE_NCCL_LOG");
  if (!file) return;
  const int log = open(file, O_WRONLY | O_CREAT | O_APPEND, 0600);
  const std::string whole = line + "\n";
  if (log < 0 || write(log, whole.data(), whole.size()) != static_cast<ssize_t>(whole.size())) std::abort();
  close(log);
}

// Of all ranks; zeroed, and as large as it is touched.
struct Shared {
  std::atomic<int> joined;
  std::atomic<uint64_t> put[kRanks], taken[kRanks];  // so many sums
  double values[kRanks][kMostValues];
};
struct Comm {
  std::string name;
  Shared* shared = nullptr;
  int index = 0, count = 0;
  uint64_t sums = 0;
  std::atomic<bool> aborted{false};

  ~Comm() {
    if (!shared) return;
    if (shared->joined < count) shm_unlink(name.c_str());
    munmap(shared, sizeof(Shared));
  }
  bool all(const std::atomic<uint64_t> (&done)[kRanks], uint64_t number) const {
    return std::all_of(done, done + count, [&](const auto& n) { return n.load() >= number; });
  }
  uint64_t fails_after() const {
    return static_cast<uint64_t>(std::min(asked("break_after", 1 << 30), asked("hang_after", 1 << 30)));
  }
};
using Handle = std::shared_ptr<Comm>;  // what callers have is a pointer to one

Shared* map(const char* name, bool create) {
  const int file = shm_open(name, O_RDWR | (create ? O_CREAT | O_EXCL : 0), 0600);
  if (file < 0) return nullptr;
  void* at = MAP_FAILED;
  if (!create || ftruncate(file, sizeof(Shared)) == 0)
    at = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
  close(file);
  return at == MAP_FAILED ? nullptr : static_cast<Shared*>(at);
}

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

struct Id {
  char name[128];
};
struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

EXPORTED int ncclGetVersion(int* version) {
  *version = asked("version", 22809);
  return kSuccess;
}
EXPORTED const char* ncclGetErrorString(int result) {
  switch (result) {
    case kSystemError: return "unhandled system error";
    case kInvalidArgument: return "invalid argument";
    case kInvalidUsage: return "invalid usage";
    case kRemoteError: return "remote process exited or there was a network error";
    default: return "no error";
  }
}
EXPORTED const char* ncclGetLastError(void*) { return last_error.c_str(); }

EXPORTED int ncclGetUniqueId(Id* id) {
  static std::atomic<int> made{0};
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->name, sizeof id->name, "/fake_nccl_%d_%d", getpid(), made++);
  Shared* shared = map(id->name, true);
  if (!shared) return kSystemError;
  munmap(shared, sizeof(Shared));
  return kSuccess;
}

EXPORTED int ncclCommInitRankConfig(void** handle, int count, Id id, int index, Config* config) {
  note("join " + std::to_string(index) + " of " + std::to_string(count));
  if (config->size < 20 || config->magic != 0xcafebeef || config->blocking != 0 || count > kRanks)
    return kInvalidArgument;
  auto comm = std::make_shared<Comm>();
  comm->name = id.name;
  comm->shared = map(id.name, false);
  comm->index = index, comm->count = count;
  if (!comm->shared) return kSystemError;
  if (++comm->shared->joined == count) shm_unlink(id.name);
  *handle = new Handle(comm);
  return kInProgress;
}

EXPORTED int ncclCommGetAsyncError(void* handle, int* state) {
  const Comm& comm = **static_cast<Handle*>(handle);
  const bool broken = comm.sums > static_cast<uint64_t>(asked("break_after", 1 << 30));
  const bool refused = asked("refuse", 0);
  if (broken) last_error = "NET/Socket : peer has closed the connection";
  if (refused) last_error = "Duplicate GPU detected : rank 0 and rank 1 both on CUDA device 1000";
  *state = comm.shared->joined < comm.count ? kInProgress : refused ? kInvalidUsage : broken ? kRemoteError : kSuccess;
  return kSuccess;
}

// A GPU reads its values when the stream comes there, and has the sum when all have put theirs.
EXPORTED int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation, void* handle,
                           void* stream) {
  const Handle comm = *static_cast<Handle*>(handle);
  const uint64_t number = ++comm->sums;
  note("sum " + std::to_string(number) + " of " + std::to_string(count) + " by " + std::to_string(comm->index));
  if (type != kFloat64 || operation != kSum || count > kMostValues) return kInvalidArgument;
  auto* queue = static_cast<simt::Queue*>(stream);
  Shared& shared = *comm->shared;
  const auto put = [comm, &shared, from, count, number] {
    if (comm->aborted) return;
    std::memcpy(shared.values[comm->index], from, count * sizeof(double));
    shared.put[comm->index] = number;
  };
  const auto add = [comm, &shared, to, count, number] {
    if (comm->aborted) return;
    for (size_t i = 0; i < count; ++i) {
      double sum = 0;
      for (int r = 0; r < comm->count; ++r) sum += shared.values[r][i];
      static_cast<double*>(to)[i] = sum;
    }
    shared.taken[comm->index] = number;
  };
  queue->add(put, [comm, &shared, number] { return comm->aborted || comm->all(shared.taken, number - 1); });
  queue->add(add, [comm, &shared, number] {
    return comm->aborted || (number <= comm->fails_after() && comm->all(shared.put, number));
  });
  return kSuccess;
}

EXPORTED int ncclCommAbort(void* handle) {
  auto* comm = static_cast<Handle*>(handle);
  note("abort by " + std::to_string((*comm)->index));
  (*comm)->aborted = true;
  delete comm;
  return kSuccess;
}
