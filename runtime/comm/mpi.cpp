#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/collectives.h"
#include "runtime/comm/doorbell.h"
#include "runtime/comm/transport.h"

namespace kt {
namespace {

[[noreturn]] void fail_mpi(const char* call, int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(kExitPeerLost, "{}: {}", call, text);
}

#define KT_MPI(call)                                      \
  do {                                                    \
    const int kt_code = (call);                           \
    if (kt_code != MPI_SUCCESS) fail_mpi(#call, kt_code); \
  } while (false)

// Larger messages may need their receiver before the send is complete (Open MPI's smallest such limit is 4 KiB, of
// shared memory), so their receiver rings the sender.
constexpr size_t kSurelyEagerBytes = 1024;

// MPI counts in int. The largest message of a step is far smaller (8192 rows of 7168 doubles: 0.45 GiB).
constexpr size_t kMaxBytes = INT_MAX;

// Completed requests are forgotten when this many have gathered.
constexpr size_t kManyRequests = 256;

// Nobody rings across nodes. There a rank stays awake while a step may be under way, and when idle wakes to look (a
// look costs about 30 us, so 0.3 % of a core).
constexpr Patience kPatienceAcrossNodes{.yield = std::chrono::milliseconds(10), .sleep = std::chrono::milliseconds(10)};

// A large message moves in pieces, whenever both ends look, where processes may not read each other's memory (as in
// many containers) and across networks. So the ends of an unfinished transfer stay awake, and if it takes long sleep
// lightly.
constexpr Patience kPatienceInTransfer{.yield = std::chrono::milliseconds(20), .sleep = std::chrono::microseconds(50)};

// One bell for every rank of this node, in memory that MPI shares among them and frees also after a crash.
class NodeBells {
 public:
  explicit NodeBells(MPI_Comm world) {
    KT_MPI(MPI_Comm_split_type(world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node_));
    int rank = 0, size = 0;
    KT_MPI(MPI_Comm_rank(node_, &rank));
    KT_MPI(MPI_Comm_size(node_, &size));
    Doorbell* mine = nullptr;
    KT_MPI(MPI_Win_allocate_shared(2 * sizeof(Doorbell), 1, MPI_INFO_NULL, node_, &mine, &window_));
    for (int r = 0; r < size; ++r) {
      MPI_Aint bytes = 0;
      int unit = 0;
      void* memory = nullptr;
      KT_MPI(MPI_Win_shared_query(window_, r, &bytes, &unit, &memory));
      bells_.push_back(aligned(memory));
    }
    new (bells_[static_cast<size_t>(rank)]) Doorbell();
    KT_MPI(MPI_Barrier(node_));
    assign_world_ranks(world, size);
  }
  NodeBells(const NodeBells&) = delete;
  NodeBells& operator=(const NodeBells&) = delete;

  // Collective over the node, before MPI_Finalize.
  void free() {
    MPI_Win_free(&window_);
    MPI_Comm_free(&node_);
  }

  // Lowest world rank of this node: names the node.
  int first_world_rank() const { return first_world_rank_; }
  int ranks_here() const { return static_cast<int>(bells_.size()); }
  // Null for ranks of other nodes.
  Doorbell* of(int world_rank) const { return by_world_rank_[static_cast<size_t>(world_rank)]; }

 private:
  // MPI promises no alignment; the segment has room for a second bell, so that an aligned one fits.
  static Doorbell* aligned(void* memory) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    return reinterpret_cast<Doorbell*>((address + alignof(Doorbell) - 1) / alignof(Doorbell) * alignof(Doorbell));
  }

  void assign_world_ranks(MPI_Comm world, int size) {
    int world_size = 0, world_rank = 0;
    KT_MPI(MPI_Comm_size(world, &world_size));
    KT_MPI(MPI_Comm_rank(world, &world_rank));
    std::vector<int> members(static_cast<size_t>(size));
    KT_MPI(MPI_Allgather(&world_rank, 1, MPI_INT, members.data(), 1, MPI_INT, node_));
    by_world_rank_.assign(static_cast<size_t>(world_size), nullptr);
    for (size_t i = 0; i < members.size(); ++i) by_world_rank_[static_cast<size_t>(members[i])] = bells_[i];
    first_world_rank_ = *std::min_element(members.begin(), members.end());
  }

  MPI_Comm node_ = MPI_COMM_NULL;
  MPI_Win window_ = MPI_WIN_NULL;
  std::vector<Doorbell*> bells_;
  std::vector<Doorbell*> by_world_rank_;
  int first_world_rank_ = 0;
};

std::vector<int> number_nodes(MPI_Comm world, int world_size, int my_first_rank) {
  std::vector<int> first_rank_of(static_cast<size_t>(world_size));
  KT_MPI(MPI_Allgather(&my_first_rank, 1, MPI_INT, first_rank_of.data(), 1, MPI_INT, world));
  std::vector<int> names = first_rank_of;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  for (int& node : first_rank_of) {
    node = static_cast<int>(std::lower_bound(names.begin(), names.end(), node) - names.begin());
  }
  return first_rank_of;
}

class MpiTransport final : public Transport {
 public:
  // Of all ranks: MPI_COMM_WORLD, which ends with MPI itself, or a copy of it.
  explicit MpiTransport(MPI_Comm comm) : comm_(comm), bells_(comm) {
    KT_MPI(MPI_Comm_rank(comm_, &rank_));
    KT_MPI(MPI_Comm_size(comm_, &size_));
    node_of_ = number_nodes(comm_, size_, bells_.first_world_rank());
    if (bells_.ranks_here() < size_) patience_ = kPatienceAcrossNodes;
    // A spinning rank would keep the rank that it waits for from its core.
    if (static_cast<unsigned>(bells_.ranks_here()) > std::thread::hardware_concurrency())
      patience_.spin = in_transfer_.spin = {};
  }

  ~MpiTransport() override {
    // Leaving by an exception, this rank is alone: finalising would wait for ranks that do not know it. Without it the
    // launcher sees the exit and ends them.
    if (std::uncaught_exceptions() > 0) return;
    try {
      finish_sends();
      barrier();
      bells_.free();
      if (comm_ == MPI_COMM_WORLD)
        MPI_Finalize();
      else
        MPI_Comm_free(&comm_);
    } catch (const Error& error) {
      std::fprintf(stderr, "while leaving MPI: %s\n", error.what());
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  int node() const override { return node_of_[static_cast<size_t>(rank_)]; }
  std::vector<int> nodes() const override { return node_of_; }

  void send(int to, Tag tag, std::span<const std::byte> bytes) override {
    if (bytes.size() > kMaxBytes) {
      fail(kExitUsage, "a message of {} bytes to rank {}; at most {} fit. Try a smaller chunked-prefill-size",
           bytes.size(), to, kMaxBytes);
    }
    if (pending_.size() >= kManyRequests) forget_completed();
    MPI_Request request = MPI_REQUEST_NULL;
    KT_MPI(
        MPI_Isend(bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, static_cast<int>(tag), comm_, &request));
    pending_.push_back(request);
    ring(to);
  }

  void finish_sends() override {
    wait([&] { return !sending(); });
  }

  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    wait([&] {
      int found = 0;
      KT_MPI(MPI_Improbe(from, static_cast<int>(tag), comm_, &found, &message, &status));
      return found != 0;
    });
    int count = 0;
    KT_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
    into.resize(static_cast<size_t>(count));
    KT_MPI(MPI_Imrecv(into.data(), count, MPI_BYTE, &message, &receiving_));
    wait([&] { return !receiving(); });
    if (into.size() > kSurelyEagerBytes) ring(from);
  }

  bool ready(int from, Tag tag) override {
    int found = 0;
    KT_MPI(MPI_Iprobe(from, static_cast<int>(tag), comm_, &found, MPI_STATUS_IGNORE));
    return found != 0;
  }

  void barrier() override { message_barrier(*this); }

  std::unique_ptr<Transport> lane() override {
    int provided = MPI_THREAD_SINGLE;
    KT_MPI(MPI_Query_thread(&provided));
    if (provided < MPI_THREAD_MULTIPLE)
      fail(kExitUsage,
           "this MPI serves one thread at a time (level {}), exchanges of experts beside steps need "
           "MPI_THREAD_MULTIPLE\n"
           "  use another MPI, or leave out kt-enable-dynamic-expert-update",
           provided);
    MPI_Comm copy = MPI_COMM_NULL;
    KT_MPI(MPI_Comm_dup(comm_, &copy));
    return std::make_unique<MpiTransport>(copy);
  }

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  Doorbell& bell() { return *bells_.of(rank_); }

  void ring(int rank) {
    Doorbell* other = rank == rank_ ? nullptr : bells_.of(rank);
    if (other != nullptr) other->ring();
  }

  template <class Arrived>
  void wait(Arrived arrived) {
    Patience patience;
    staged_wait(bell(), patience, [&] {
      if (arrived()) return true;
      patience = sending() || receiving() ? in_transfer_ : patience_;
      return false;
    });
  }

  bool sending() {
    forget_completed();
    return !pending_.empty();
  }

  bool receiving() {
    int done = 0;
    KT_MPI(MPI_Test(&receiving_, &done, MPI_STATUS_IGNORE));
    return done == 0;
  }

  void forget_completed() {
    std::erase_if(pending_, [](MPI_Request& request) {
      int done = 0;
      KT_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
      return done != 0;
    });
  }

  MPI_Comm comm_;
  NodeBells bells_;
  Patience patience_, in_transfer_ = kPatienceInTransfer;
  int rank_ = 0, size_ = 1;
  std::vector<int> node_of_;
  std::vector<MPI_Request> pending_;          // sends
  MPI_Request receiving_ = MPI_REQUEST_NULL;  // the message that receive() waits for
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    fail(kExitTryAgain, "MPI_Init_thread failed; try again, or look at what mpirun printed");
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    fail(kExitTryAgain, "MPI gives thread level {}, ktmpi needs MPI_THREAD_SERIALIZED ({})", provided,
         static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  KT_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  return std::make_unique<MpiTransport>(MPI_COMM_WORLD);
}

}  // namespace kt
