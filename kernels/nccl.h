#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

namespace kt {

// Sums over the GPUs of several processes, by NVIDIA's NCCL (docs.nvidia.com/deeplearning/nccl). The library is opened
// when it is first asked for: libnccl.so.2, or the file that KTMPI_NCCL_LIBRARY names. From 2.14 on, whose calls return
// before they are done, so that nothing here waits without looking for faults. One thread at a time may use it.
//
// All throw DeviceFault, in NCCL's words; LostPeer where it is others, or the network, that have failed.
class Nccl {
 public:
  // Of the library: "2.28.9".
  static std::string version();
  // What all that join must be given; one of them makes it, and must live on.
  static std::string make_id();
  // `count` processes, each with a GPU of its own, the one that is the calling thread's. Returns when all have come.
  static std::unique_ptr<Nccl> join(const std::string& id, int index, int count, std::chrono::milliseconds limit);

  ~Nccl();  // ends what is still under way; does not wait for others
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  // values = their sum over all that joined, in the GPU's memory, in a CUDA stream. The same number of them on each.
  void sum(std::span<double> values, void* stream);
  // Of sums that are under way: while one waits for them.
  void check() const;

 private:
  explicit Nccl(void* comm) : comm_(comm) {}
  void finish_call(int result, std::chrono::milliseconds limit, const char* what);

  void* comm_;
};

}  // namespace kt
