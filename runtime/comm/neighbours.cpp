#include "runtime/comm/neighbours.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <sstream>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/comm/collectives.h"

namespace kt {
namespace {

// What `work` says on each of these ranks; throws on all of them where it throws on one.
std::vector<std::string> gather_from(Transport& transport, std::span<const int> ranks,
                                     const std::function<std::string()>& work) {
  std::string mine;
  try {
    mine = "+" + work();
  } catch (const Error& error) {
    mine = std::string("-") + error.what();
  }
  std::vector<std::string> all = gather_among(transport, ranks, mine);
  for (std::string& said : all) {
    if (said[0] == '-') fail(kExitTryAgain, "{}", said.substr(1));
    said.erase(0, 1);
  }
  return all;
}

}  // namespace

std::vector<int> ranks_here(const Transport& transport) {
  const std::vector<int> nodes = transport.nodes();
  std::vector<int> ranks;
  for (int r = 0; r < transport.size(); ++r)
    if (nodes[static_cast<size_t>(r)] == nodes[static_cast<size_t>(transport.rank())]) ranks.push_back(r);
  return ranks;
}

NodeMemory share_by_messages(Transport& transport, size_t bytes) {
  const std::vector<int> ranks = ranks_here(transport);
  std::vector<size_t> sizes;
  for (const std::string& size : gather_among(transport, ranks, std::to_string(bytes)))
    sizes.push_back(std::stoull(size));
  const std::vector<size_t> offsets = part_offsets(sizes);
  const size_t all_bytes = offsets.back();
  if (all_bytes == 0) return NodeMemory();

  const bool is_first = ranks.front() == transport.rank();
  std::optional<MemoryFile> file;
  const std::string where = gather_from(transport, ranks, [&] {
                              if (!is_first) return std::string();
                              const auto [process, number] = file.emplace(all_bytes).id();
                              return std::to_string(process) + ' ' + std::to_string(number);
                            }).front();
  std::shared_ptr<void> mapping;
  gather_from(transport, ranks, [&] {  // the first rank's file stays open until all have it
    std::array<long, 2> id{};
    std::istringstream(where) >> id[0] >> id[1];
    if (!is_first) file.emplace(id, all_bytes);
    mapping = file->map();
    return std::string();
  });
  std::vector<std::span<std::byte>> part_of(static_cast<size_t>(transport.size()));
  for (size_t i = 0; i < ranks.size(); ++i)
    if (sizes[i])
      part_of[static_cast<size_t>(ranks[i])] = {static_cast<std::byte*>(mapping.get()) + offsets[i], sizes[i]};
  return {std::move(part_of), mapping};
}

std::chrono::microseconds spin_time(size_t ranks_here) {
  return ranks_here > std::thread::hardware_concurrency() ? std::chrono::microseconds(0) : Patience().spin;
}

void Bells::hang(Transport& transport) {
  memory_ = share_by_messages(transport, sizeof(Doorbell));
  mine_ = reinterpret_cast<Doorbell*>(memory_.of(transport.rank()).data());
}

}  // namespace kt
