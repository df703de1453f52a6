#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "runtime/base/error.h"
#include "runtime/comm/collectives.h"
#include "runtime/comm/neighbours.h"
#include "runtime/comm/pieces.h"
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

// Completed requests are forgotten when this many have gathered.
constexpr size_t kManyRequests = 256;

// Nobody rings across nodes. There a rank stays awake while a step may be under way, and when idle wakes to look (a
// look costs about 30 us, so 0.3 % of a core).
constexpr Patience kPatienceAcrossNodes{.yield = std::chrono::milliseconds(10), .sleep = std::chrono::milliseconds(10)};

// A large message moves in pieces, whenever both ends look, where processes may not read each other's memory (as in
// many containers) and across networks. So the ends of an unfinished transfer stay awake, and if it takes long sleep
// lightly.
constexpr Patience kPatienceInTransfer{.yield = std::chrono::milliseconds(20), .sleep = std::chrono::microseconds(50)};

// Of every rank the index of its machine: ranks share one if MPI says that they share memory, and if they bear the same
// KTMPI_NODE.
std::vector<int> find_nodes(MPI_Comm comm) {
  struct Place {
    int first = 0;  // rank of those that MPI lets share memory
    std::array<char, 64> name{};
    bool operator==(const Place&) const = default;
  } mine;
  int size = 0;
  KT_MPI(MPI_Comm_size(comm, &size));
  KT_MPI(MPI_Comm_rank(comm, &mine.first));
  MPI_Comm sharing = MPI_COMM_NULL;
  KT_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &sharing));
  KT_MPI(MPI_Bcast(&mine.first, 1, MPI_INT, 0, sharing));
  MPI_Comm_free(&sharing);
  if (const char* given = std::getenv("KTMPI_NODE")) std::snprintf(mine.name.data(), mine.name.size(), "%s", given);

  std::vector<Place> places(static_cast<size_t>(size)), machines;
  constexpr int kBytes = static_cast<int>(sizeof mine);
  KT_MPI(MPI_Allgather(&mine, kBytes, MPI_BYTE, places.data(), kBytes, MPI_BYTE, comm));
  std::vector<int> nodes;
  for (const Place& place : places) {
    const auto seen = std::find(machines.begin(), machines.end(), place);
    nodes.push_back(static_cast<int>(seen - machines.begin()));
    if (seen == machines.end()) machines.push_back(place);
  }
  return nodes;
}

// Of these ranks alone, who all call it; those that are lost take no part. Open MPI 5 refuses the older function where
// it watches losses itself (mpirun --with-ft ulfm), and 4 has none but that.
MPI_Comm communicator_of(MPI_Group ranks, [[maybe_unused]] MPI_Comm before, int times) {
  MPI_Comm made = MPI_COMM_NULL;
#if defined(OMPI_MAJOR_VERSION) && OMPI_MAJOR_VERSION >= 5
  const std::string name = fmt::format("ktmpi {}", times);
  KT_MPI(MPI_Comm_create_from_group(ranks, name.c_str(), MPI_INFO_NULL, MPI_ERRORS_RETURN, &made));
#else
  constexpr int kBeyondAllTags = 1000;  // by which it sends messages like all others
  KT_MPI(MPI_Comm_create_group(before, ranks, kBeyondAllTags + times, &made));
  KT_MPI(MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN));
#endif
  return made;
}

class MpiTransport final : public Transport {
 public:
  // Of all ranks: MPI_COMM_WORLD, which ends with MPI itself, or a copy of it.
  MpiTransport(MPI_Comm comm, size_t piece) : comm_(comm), piece_(piece), node_of_(find_nodes(comm)) {
    KT_MPI(MPI_Comm_rank(comm_, &rank_));
    KT_MPI(MPI_Comm_size(comm_, &size_));
    place_.resize(static_cast<size_t>(size_));
    std::iota(place_.begin(), place_.end(), 0);
    const size_t neighbours = ranks_here(*this).size();
    if (neighbours < static_cast<size_t>(size_)) patience_ = kPatienceAcrossNodes;
    patience_.spin = in_transfer_.spin = spin_time(neighbours);
    bells_.hang(*this);
  }

  ~MpiTransport() override {
    // Leaving by an exception, this rank is alone: finalising would wait for ranks that do not know it. Without it the
    // launcher sees the exit and ends them.
    if (std::uncaught_exceptions() > 0) return;
    try {
      finish_sends();
      barrier();
      if (times_ > 0) return;  // those left out would be waited for
      if (comm_ == MPI_COMM_WORLD)
        MPI_Finalize();
      else
        MPI_Comm_free(&comm_);
    } catch (const Error& error) {
      std::fprintf(stderr, "while leaving MPI: %s\n", error.what());
    }
  }

  const char* name() const override { return "mpi"; }
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::vector<int> nodes() const override { return node_of_; }

  void send(int to, Tag tag, std::span<const std::byte> bytes) override {
    if (pending_.size() >= kManyRequests) forget_completed();
    const size_t pieces = open_piece_count(bytes.size(), piece_);
    for (size_t i = 0; i < pieces; ++i) pending_.push_back(send_piece(to, tag, bytes, i));
    ring(to);
  }

  void finish_sends() override {
    if (!wait_until([&] { return !sending(); })) fail(kExitPeerLost, "messages that nobody takes in time");
  }

  void receive(int from, Tag tag, std::vector<std::byte>& into) override {
    incoming_.swap(into);  // stays if this is left by an exception while bytes come
    incoming_.clear();
    for (size_t got = piece_; got == piece_;) {
      MPI_Message message = MPI_MESSAGE_NULL;
      MPI_Status status;
      const bool came = wait_until([&] {
        int found = 0;
        KT_MPI(MPI_Improbe(place_of(from), static_cast<int>(tag), comm_, &found, &message, &status));
        return found != 0;
      });
      if (!came) check({Fault::late, from}, "message");
      int count = 0;
      KT_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
      got = static_cast<size_t>(count);
      receiving_from_ = from;
      const size_t at = incoming_.size();
      incoming_.resize(at + got);
      KT_MPI(MPI_Imrecv(incoming_.data() + at, count, MPI_BYTE, &message, &receiving_));
      if (!wait_until([&] { return !receiving(); })) check({Fault::late, from}, "message");
    }
    incoming_.swap(into);
    if (into.size() > kSurelyEagerBytes) ring(from);
  }

  bool ready(int from, Tag tag) override {
    int found = 0;
    KT_MPI(MPI_Iprobe(place_of(from), static_cast<int>(tag), comm_, &found, MPI_STATUS_IGNORE));
    return found != 0;
  }

  Ticket post_send(int to, Tag tag, std::span<const std::byte> bytes) override {
    const Ticket ticket = new_ticket(to, bytes.size(), true, false);
    Post& post = posts_[static_cast<size_t>(ticket)];
    for (size_t i = 0; i < piece_count(bytes.size(), piece_); ++i) post.pieces.push_back(send_piece(to, tag, bytes, i));
    ring(to);
    return ticket;
  }

  Ticket post_receive(int from, Tag tag, std::span<std::byte> into, bool idle) override {
    const Ticket ticket = new_ticket(from, into.size(), false, idle);
    Post& post = posts_[static_cast<size_t>(ticket)];
    for (size_t i = 0; i < piece_count(into.size(), piece_); ++i) {
      MPI_Request request = MPI_REQUEST_NULL;
      KT_MPI(MPI_Irecv(into.data() + i * piece_, static_cast<int>(piece_size(into.size(), piece_, i)), MPI_BYTE,
                       place_of(from), static_cast<int>(tag), comm_, &request));
      post.pieces.push_back(request);
    }
    return ticket;
  }

  Transfer look(Ticket ticket) override {
    Post& post = posts_[static_cast<size_t>(ticket)];
    for (; post.next < post.pieces.size(); ++post.next) {
      int done = 0, count = 0;
      MPI_Status status;
      const int code = MPI_Test(&post.pieces[post.next], &done, &status);
      if (code == MPI_SUCCESS && !done) return {};
      int kind = code;
      if (code != MPI_SUCCESS) MPI_Error_class(code, &kind);
      if (code != MPI_SUCCESS && (post.sends || kind != MPI_ERR_TRUNCATE)) fail_mpi("MPI_Test", code);
      if (post.sends) continue;
      if (code == MPI_SUCCESS) KT_MPI(MPI_Get_count(&status, MPI_BYTE, &count));
      if (kind == MPI_ERR_TRUNCATE || static_cast<size_t>(count) != piece_size(post.bytes, piece_, post.next))
        post.fault = {Fault::cut, post.peer};
    }
    if (!post.sends && post.bytes > kSurelyEagerBytes) ring(post.peer);
    if (!post.idle) --moving_;
    post.open = false;
    free_.push_back(ticket);
    return {true, post.fault};
  }

  NodeMemory share(size_t bytes) override { return share_by_messages(*this, bytes); }

  void announce(std::atomic<uint64_t>& flag, uint64_t value, std::span<const int> to) override {
    flag.store(value, std::memory_order_release);
    for (const int rank : to) ring(rank);
  }

  void give_up_after(std::chrono::milliseconds limit) override { patience_.limit = in_transfer_.limit = limit; }

  void leave_out(std::span<const int> lost) override {
    go_on();
    MPI_Group all = MPI_GROUP_NULL, remaining = MPI_GROUP_NULL;
    std::vector<int> places;
    for (const int rank : lost) {
      places.push_back(place_of(rank));
      node_of_[static_cast<size_t>(rank)] = -1;
    }
    KT_MPI(MPI_Comm_group(comm_, &all));
    KT_MPI(MPI_Group_excl(all, static_cast<int>(places.size()), places.data(), &remaining));
    const MPI_Comm next = communicator_of(remaining, comm_, ++times_);
    MPI_Group_free(&all);
    MPI_Group_free(&remaining);
    forget_transfers();
    comm_ = next;
    const std::vector<int> ranks = present(*this);
    for (size_t i = 0; i < ranks.size(); ++i) place_[static_cast<size_t>(ranks[i])] = static_cast<int>(i);
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
    return std::make_unique<MpiTransport>(copy, piece_);
  }

  [[noreturn]] void abort(int exit_code) override {
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  struct Post {
    std::vector<MPI_Request> pieces;
    size_t next = 0;  // that is not known to be done
    size_t bytes = 0;
    int peer = 0;
    bool sends = false, idle = false;
    Fault fault = {};
    bool open = true;  // its ticket is not spent
  };

  int place_of(int rank) const { return place_[static_cast<size_t>(rank)]; }

  // What is being received from ranks that remain comes to its end first: it is written to memory of the caller's.
  void forget_transfers() {
    std::vector<MPI_Request> coming;
    const auto forget_receive = [&](MPI_Request& request, int peer) {
      if (request == MPI_REQUEST_NULL) return;
      MPI_Cancel(&request);
      if (node_of_[static_cast<size_t>(peer)] >= 0)
        coming.push_back(request);
      else
        MPI_Request_free(&request);
    };
    for (Post& post : posts_) {
      if (!post.open) continue;
      for (; post.next < post.pieces.size(); ++post.next) {
        MPI_Request& request = post.pieces[post.next];
        if (!post.sends)
          forget_receive(request, post.peer);
        else if (request != MPI_REQUEST_NULL)
          MPI_Request_free(&request);
      }
      post.fault = {Fault::lost, post.peer};
    }
    forget_receive(receiving_, receiving_from_);
    receiving_ = MPI_REQUEST_NULL;
    for (MPI_Request& request : pending_)
      if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
    pending_.clear();
    const auto all_came = [&] {
      std::erase_if(coming, [](MPI_Request& request) {
        int done = 0;
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        return done != 0;
      });
      return coming.empty();
    };
    if (!wait_until(all_came)) fail(kExitPeerLost, "one more rank was lost");
  }

  void ring(int rank) {
    if (Doorbell* other = bells_.of(rank)) other->ring();
  }

  bool wait(Arrived arrived, const void* argument) override {
    Patience patience;
    return staged_wait(bells_.mine(), patience, [&] {
      if (arrived(argument)) return true;
      patience = moving_ || sending() || receiving() ? in_transfer_ : patience_;
      return false;
    });
  }

  void wake() override { bells_.mine().ring(); }

  MPI_Request send_piece(int to, Tag tag, std::span<const std::byte> bytes, size_t i) {
    MPI_Request request = MPI_REQUEST_NULL;
    KT_MPI(MPI_Isend(bytes.data() + i * piece_, static_cast<int>(piece_size(bytes.size(), piece_, i)), MPI_BYTE,
                     place_of(to), static_cast<int>(tag), comm_, &request));
    return request;
  }

  Ticket new_ticket(int peer, size_t bytes, bool sends, bool idle) {
    if (free_.empty()) {
      free_.push_back(static_cast<Ticket>(posts_.size()));
      posts_.emplace_back();
    }
    const Ticket ticket = free_.back();
    free_.pop_back();
    Post& post = posts_[static_cast<size_t>(ticket)];
    post.pieces.clear();
    post.next = 0;
    post.bytes = bytes;
    post.peer = peer;
    post.sends = sends;
    post.idle = idle;
    post.fault = {};
    post.open = true;
    if (!idle) ++moving_;
    return ticket;
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
  size_t piece_;
  Bells bells_;
  Patience patience_, in_transfer_ = kPatienceInTransfer;
  int rank_ = 0, size_ = 1;
  std::vector<int> node_of_;
  std::vector<MPI_Request> pending_;          // sends
  std::vector<int> place_;                    // of every rank in comm_
  int times_ = 0;                             // that ranks were left out
  std::vector<std::byte> incoming_;           // the message that receive() waits for
  MPI_Request receiving_ = MPI_REQUEST_NULL;  // likewise
  int receiving_from_ = 0;                    // likewise
  std::vector<Post> posts_;                   // by ticket
  std::vector<Ticket> free_;
  int moving_ = 0;  // posted transfers that are under way or soon will be
};

// Under load some starts by srun end in Open MPI 4.1's own TCP: a message is there before anybody takes it. None of
// hundreds did over UCX, which Debian's settings leave out. So only `v` is left out, a component that is for debugging:
// a list of what is wanted would end the start where Open MPI has no UCX. What the user says of it holds.
void prefer_ucx_under_srun() {
  const bool by_srun = std::getenv("SLURM_STEP_ID") && std::getenv("PMIX_RANK") && !std::getenv("OMPI_COMM_WORLD_SIZE");
  if (!by_srun || std::getenv("OMPI_MCA_pml")) return;
  setenv("OMPI_MCA_pml", "^v", 0);
  for (const char* any : {"OMPI_MCA_opal_common_ucx_tls", "OMPI_MCA_opal_common_ucx_devices"}) setenv(any, "any", 0);
}

}  // namespace

std::unique_ptr<Transport> make_mpi_transport(int* argc, char*** argv, size_t piece) {
  prefer_ucx_under_srun();
  int provided = MPI_THREAD_SINGLE;
  if (MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    fail(kExitTryAgain, "MPI_Init_thread failed; try again, or look at what mpirun printed");
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    fail(kExitTryAgain, "MPI gives thread level {}, ktmpi needs MPI_THREAD_SERIALIZED ({})", provided,
         static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  KT_MPI(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  try {
    return std::make_unique<MpiTransport>(MPI_COMM_WORLD, piece);
  } catch (const Error& error) {
    fail(error.exit_code(),
         "{}\n  the ranks do not find each other: look for another program or MPI on one of the machines (ktmpi "
         "version),\n"
         "  or for a network that does not reach all of them (OMPI_MCA_btl_tcp_if_include)",
         error.what());
  }
}

}  // namespace kt
