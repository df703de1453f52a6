#include "kernels/nccl.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <thread>

#include "kernels/device_fault.h"

namespace kt {
namespace {

// ---- NCCL's interface, as of 2.14; its header need not be there when ktmpi is built

enum Result : int { kSuccess = 0, kRemoteError = 6, kInProgress = 7 };
constexpr int kOldest = 21400, kFloat64 = 8, kSum = 0;

struct Id {
  char bytes[128];
};
// Later ones are longer: the library reads as many fields as this version has.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef, version = kOldest;
  int blocking = 0;
};

struct Library {
  int (*get_version)(int*);
  const char* (*error_string)(int);
  const char* (*last_error)(void* comm);
  int (*get_unique_id)(Id*);
  int (*init_rank)(void** comm, int count, Id id, int index, Config* config);
  int (*async_error)(void* comm, int* result);
  int (*all_reduce)(const void* from, void* to, size_t count, int type, int operation, void* comm, void* stream);
  int (*abort)(void* comm);
  int version = 0;
};

std::string text_of(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

Library open_library() {
  const char* asked = std::getenv("KTMPI_NCCL_LIBRARY");
  const std::string file = asked ? asked : "libnccl.so.2";
  void* handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw DeviceFault(std::string("NCCL: ") + dlerror());
  Library l;
  const auto find = [&](auto& function, const char* name) {
    void* found = dlsym(handle, name);
    if (!found) throw DeviceFault("NCCL: " + file + " has no " + name + ": 2.14 or later is expected");
    std::memcpy(&function, &found, sizeof found);
  };
  find(l.get_version, "ncclGetVersion");
  find(l.error_string, "ncclGetErrorString");
  find(l.last_error, "ncclGetLastError");
  find(l.get_unique_id, "ncclGetUniqueId");
  find(l.init_rank, "ncclCommInitRankConfig");
  find(l.async_error, "ncclCommGetAsyncError");
  find(l.all_reduce, "ncclAllReduce");
  find(l.abort, "ncclCommAbort");
  if (l.get_version(&l.version) != kSuccess || l.version < kOldest)
    throw DeviceFault("NCCL: " + file + " is " + text_of(l.version) + ": 2.14 or later is expected");
  return l;
}

const Library& library() {
  static const Library opened = open_library();
  return opened;
}

void require(int result, void* comm, const char* what) {
  if (result == kSuccess) return;
  std::string why = std::string("NCCL: ") + what + ": " + library().error_string(result);
  if (const char* last = library().last_error(comm); last && *last) why += std::string(": ") + last;
  if (result == kRemoteError) throw LostPeer(why);
  throw DeviceFault(why);
}

}  // namespace

std::string Nccl::version() { return text_of(library().version); }

std::string Nccl::make_id() {
  Id id;
  require(library().get_unique_id(&id), nullptr, "identifier");
  return {id.bytes, sizeof id.bytes};
}

std::unique_ptr<Nccl> Nccl::join(const std::string& id, int index, int count, std::chrono::milliseconds limit) {
  Id given = {};
  id.copy(given.bytes, sizeof given.bytes);
  Config config;
  void* comm = nullptr;
  const int result = library().init_rank(&comm, count, given, index, &config);
  if (!comm) require(result, nullptr, "joining");
  std::unique_ptr<Nccl> joined(new Nccl(comm));
  joined->finish_call(result, limit, "joining");
  return joined;
}

Nccl::~Nccl() {
  if (comm_) library().abort(comm_);
}

void Nccl::sum(std::span<double> values, void* stream) {
  const int result = library().all_reduce(values.data(), values.data(), values.size(), kFloat64, kSum, comm_, stream);
  finish_call(result, std::chrono::minutes(1), "a sum");  // of the call: the sum itself may take as long as it does
}

void Nccl::check() const {
  int state = kSuccess;
  require(library().async_error(comm_, &state), comm_, "state");
  if (state != kInProgress) require(state, comm_, "a sum");
}

// NCCL may go on with a call after it has returned, and wants no other one before that is done.
void Nccl::finish_call(int result, std::chrono::milliseconds limit, const char* what) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (result == kInProgress) {
    if (std::chrono::steady_clock::now() > end)
      throw LostPeer(std::string("NCCL: ") + what + ": others have not come within " + std::to_string(limit.count()) +
                     " ms");
    std::this_thread::yield();
    require(library().async_error(comm_, &result), comm_, what);
  }
  require(result, comm_, what);
}

}  // namespace kt
