#include "runtime/comm/collectives.h"

#include <algorithm>
#include <chrono>

#include "runtime/base/error.h"

namespace kt {
namespace {

// Grows to the largest message of the thread and stays: a step allocates nothing.
std::vector<std::byte>& scratch() {
  thread_local std::vector<std::byte> bytes;
  return bytes;
}

}  // namespace

void message_barrier(Transport& transport) {
  // Dissemination barrier (Hensgen, Finkel, Manber 1988): after round k a rank has heard of 2^(k+1) ranks.
  const std::vector<int> ranks = present(transport);
  const size_t n = ranks.size();
  const auto me = static_cast<size_t>(std::find(ranks.begin(), ranks.end(), transport.rank()) - ranks.begin());
  for (size_t distance = 1; distance < n; distance *= 2) {
    transport.send(ranks[(me + distance) % n], Tag::barrier, {});
    transport.receive(ranks[(me + n - distance) % n], Tag::barrier, scratch());
  }
}

std::vector<int> present(const Transport& transport) {
  const std::vector<int> nodes = transport.nodes();
  std::vector<int> ranks;
  for (int r = 0; r < transport.size(); ++r)
    if (nodes[static_cast<size_t>(r)] >= 0) ranks.push_back(r);
  return ranks;
}

void leave_together(Transport& transport) {
  constexpr auto kLong = std::chrono::seconds(2);
  transport.barrier();
  transport.finish_sends();
  // Who comes out of another one knows that all are out of the first; in this one some may be gone.
  transport.give_up_after(kLong);
  try {
    transport.barrier();
    transport.finish_sends();
  } catch (const Error&) {
  }
}

bool all_done(Transport& transport, std::vector<Ticket>& tickets) {
  std::erase_if(tickets, [&](Ticket ticket) { return transport.look(ticket).done; });
  return tickets.empty();
}

Fault finish(Transport& transport, Ticket ticket, int peer) {
  Transfer transfer;
  const bool came = transport.wait_until([&] { return (transfer = transport.look(ticket)).done; });
  return came ? transfer.fault : Fault{Fault::late, peer};
}

std::vector<std::string> gather_among(Transport& transport, std::span<const int> ranks, const std::string& mine) {
  std::vector<std::string> all;
  std::vector<std::byte> room;
  for (const int r : ranks)
    if (r != transport.rank()) transport.send(r, Tag::control, std::as_bytes(std::span(mine)));
  for (const int r : ranks) {
    if (r == transport.rank()) {
      all.push_back(mine);
      continue;
    }
    transport.receive(r, Tag::control, room);
    all.emplace_back(reinterpret_cast<const char*>(room.data()), room.size());
  }
  transport.finish_sends();
  return all;
}

std::vector<std::string> all_gather(Transport& transport, const std::string& mine) {
  const std::vector<int> ranks = present(transport);
  const std::vector<std::string> said = gather_among(transport, ranks, mine);
  std::vector<std::string> all(static_cast<size_t>(transport.size()));
  for (size_t i = 0; i < ranks.size(); ++i) all[static_cast<size_t>(ranks[i])] = said[i];
  return all;
}

}  // namespace kt
