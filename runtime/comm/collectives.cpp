#include "runtime/comm/collectives.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

// Grows to the largest message of the thread and stays: a step allocates nothing.
std::vector<std::byte>& scratch() {
  thread_local std::vector<std::byte> bytes;
  return bytes;
}

const std::byte* receive_exactly(Transport& transport, int from, size_t bytes) {
  transport.receive(from, Tag::reduce, scratch());
  if (scratch().size() != bytes) {
    fail(kExitPeerLost,
         "all-reduce: rank {} sent {} bytes to rank {}, which expected {}; the ranks disagree on the step", from,
         scratch().size(), transport.rank(), bytes);
  }
  return scratch().data();
}

void add(const std::byte* bytes, std::span<double> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    double other;
    std::memcpy(&other, bytes + i * sizeof(double), sizeof(double));
    values[i] += other;
  }
}

void exchange(Transport& transport, int partner, std::span<double> values) {
  transport.send(partner, Tag::reduce, std::as_bytes(values));
  const std::byte* bytes = receive_exactly(transport, partner, values.size_bytes());
  transport.finish_sends();
  add(bytes, values);
}

}  // namespace

void message_barrier(Transport& transport) {
  // Dissemination barrier (Hensgen, Finkel, Manber 1988): after round k a rank has heard of 2^(k+1) ranks.
  const int n = transport.size(), me = transport.rank();
  for (int distance = 1; distance < n; distance *= 2) {
    transport.send((me + distance) % n, Tag::barrier, {});
    transport.receive((me + n - distance) % n, Tag::barrier, scratch());
  }
}

void all_reduce_sum(Transport& transport, std::span<const int> group, std::span<double> values) {
  const auto mine = std::find(group.begin(), group.end(), transport.rank());
  if (mine == group.end())
    fail(kExitUsage, "all-reduce: rank {} is not in the group that it adds with", transport.rank());
  if (group.size() == 1 || values.empty()) return;
  if (group.size() == 2) return exchange(transport, group[mine == group.begin() ? 1 : 0], values);

  // Member i adds part i of all members and gives the sum back: each value travels twice, whatever the group's size.
  const size_t members = group.size(), part = (values.size() + members - 1) / members;
  const auto part_of = [&](size_t i) {
    const size_t begin = std::min(i * part, values.size());
    return values.subspan(begin, std::min(part, values.size() - begin));
  };
  const size_t me = static_cast<size_t>(mine - group.begin());
  const std::span<double> own = part_of(me);
  // Everyone starts with its right neighbour, so that no member is asked by all at once.
  for (size_t d = 1; d < members; ++d) {
    const size_t to = (me + d) % members;
    if (!part_of(to).empty()) transport.send(group[to], Tag::reduce, std::as_bytes(part_of(to)));
  }
  for (size_t d = 1; d < members && !own.empty(); ++d) {
    add(receive_exactly(transport, group[(me + members - d) % members], own.size_bytes()), own);
  }
  transport.finish_sends();
  for (size_t d = 1; d < members && !own.empty(); ++d) {
    transport.send(group[(me + d) % members], Tag::reduce, std::as_bytes(own));
  }
  for (size_t d = 1; d < members; ++d) {
    const size_t from = (me + members - d) % members;
    const std::span<double> theirs = part_of(from);
    if (theirs.empty()) continue;
    std::memcpy(theirs.data(), receive_exactly(transport, group[from], theirs.size_bytes()), theirs.size_bytes());
  }
  transport.finish_sends();
}

std::vector<std::string> all_gather(Transport& transport, const std::string& mine) {
  std::vector<std::string> all(transport.size());
  std::vector<std::byte> room;
  for (int r = 0; r < transport.size(); ++r)
    if (r != transport.rank()) transport.send(r, Tag::control, std::as_bytes(std::span(mine)));
  for (int r = 0; r < transport.size(); ++r) {
    if (r == transport.rank()) {
      all[r] = mine;
      continue;
    }
    transport.receive(r, Tag::control, room);
    all[r].assign(reinterpret_cast<const char*>(room.data()), room.size());
  }
  transport.finish_sends();
  return all;
}

}  // namespace kt
