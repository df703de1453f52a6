#include "runtime/engine/prefix_cache.h"

#include <algorithm>

#include "runtime/base/error.h"

namespace kt {

PrefixCache::PrefixCache(int blocks, bool recurrent, int snapshots)
    : blocks_(blocks),
      recurrent_(recurrent),
      nodes_(static_cast<size_t>(blocks)),
      snapshots_(static_cast<size_t>(recurrent ? snapshots : 0)) {
  for (size_t i = snapshots_.size(); i > 0; --i) free_snapshots_.push_back(static_cast<int32_t>(i - 1));
}

PrefixCache::Edge PrefixCache::edge_of(int32_t parent, std::string_view salt, std::span<const int32_t> tokens) {
  Edge edge{.parent = parent, .salt = parent == kRoot ? std::string(salt) : std::string(), .tokens = {}};
  std::copy_n(tokens.begin(), kBlockTokens, edge.tokens.begin());
  return edge;
}

PrefixCache::Match PrefixCache::match(std::string_view salt, std::span<const int32_t> tokens, int max_blocks) const {
  Match best;
  int32_t node = kRoot;
  int known = 0;
  const int most = std::min(max_blocks, static_cast<int>(tokens.size()) / kBlockTokens);
  while (known < most) {
    const auto edge = edges_.find(edge_of(node, salt, tokens.subspan(static_cast<size_t>(known) * kBlockTokens)));
    if (edge == edges_.end()) break;
    node = edge->second;
    ++known;
    if (!recurrent_ || at(node).snapshot != kNone)
      best = {.node = node, .blocks = known, .snapshot = at(node).snapshot, .fork = 0};
  }
  if (known > best.blocks && at(node).children > 0) best.fork = known;
  return best;
}

void PrefixCache::hold(int32_t node) {
  if (node != kRoot && at(node).snapshot != kNone) snapshots_[static_cast<size_t>(at(node).snapshot)].used = ++clock_;
  for (; node != kRoot; node = at(node).parent) {
    Node& held = at(node);
    if (held.holders++ > 0) continue;
    --evictable_;
    if (held.children == 0) leaves_.erase({held.released, node});
  }
}

void PrefixCache::release(int32_t node) {
  const uint64_t now = ++clock_;
  for (; node != kRoot; node = at(node).parent) {
    Node& held = at(node);
    if (held.holders < 1) fail(kExitUsage, "prefix cache: block {} is released but not held", node);
    if (--held.holders > 0) continue;
    ++evictable_;
    held.released = now;
    if (held.children == 0) leaves_.insert({now, node});
  }
}

void PrefixCache::append_path(int32_t node, std::vector<int32_t>& blocks) const {
  const size_t begin = blocks.size();
  for (; node != kRoot; node = at(node).parent) blocks.push_back(node);
  std::reverse(blocks.begin() + static_cast<std::ptrdiff_t>(begin), blocks.end());
}

int32_t PrefixCache::extend(int32_t parent, std::string_view salt, std::span<const int32_t> tokens, int32_t block) {
  const auto [edge, is_new] = edges_.try_emplace(edge_of(parent, salt, tokens), block);
  if (is_new) {
    at(block) = {.parent = parent, .children = 0, .holders = 1, .released = 0, .snapshot = kNone, .edge = edge};
    if (parent != kRoot) ++at(parent).children;
    return block;
  }
  blocks_.give_back({&block, 1});
  Node& known = at(edge->second);
  if (known.holders++ == 0) {
    --evictable_;
    if (known.children == 0) leaves_.erase({known.released, edge->second});
  }
  return edge->second;
}

bool PrefixCache::take(int count, std::vector<int32_t>& blocks) {
  if (count > available()) return false;
  for (; blocks_.free_count() < count; ++evicted_) evict_one();
  return blocks_.take(count, blocks);
}

void PrefixCache::flush() {
  while (!leaves_.empty()) evict_one();
}

// Below a node that nobody holds there is none that somebody holds: as long as evictable_ > 0 there is a leaf.
void PrefixCache::evict_one() {
  const int32_t block = leaves_.begin()->second;
  leaves_.erase(leaves_.begin());
  Node& node = at(block);
  drop_snapshot(node);
  edges_.erase(node.edge);
  --evictable_;
  if (node.parent != kRoot) {
    Node& parent = at(node.parent);
    if (--parent.children == 0 && parent.holders == 0) leaves_.insert({parent.released, node.parent});
  }
  blocks_.give_back({&block, 1});
}

int32_t PrefixCache::take_snapshot() {
  if (free_snapshots_.empty()) {
    const auto used = [](const Snapshot& s) { return s.node == kRoot ? UINT64_MAX : s.used; };
    const auto oldest = std::min_element(snapshots_.begin(), snapshots_.end(),
                                         [&](const Snapshot& a, const Snapshot& b) { return used(a) < used(b); });
    if (oldest == snapshots_.end() || oldest->node == kRoot) return kNone;
    drop_snapshot(at(oldest->node));
  }
  const int32_t snapshot = free_snapshots_.back();
  free_snapshots_.pop_back();
  return snapshot;
}

void PrefixCache::attach_snapshot(int32_t node, int32_t snapshot) {
  if (at(node).snapshot != kNone) {
    free_snapshots_.push_back(snapshot);
    return;
  }
  at(node).snapshot = snapshot;
  snapshots_[static_cast<size_t>(snapshot)] = {.node = node, .used = ++clock_};
}

void PrefixCache::drop_snapshot_before(int32_t node) {
  const int32_t parent = at(node).parent;
  if (parent != kRoot && at(parent).children == 1) drop_snapshot(at(parent));
}

void PrefixCache::drop_snapshot(Node& node) {
  if (node.snapshot == kNone) return;
  snapshots_[static_cast<size_t>(node.snapshot)] = {};
  free_snapshots_.push_back(node.snapshot);
  node.snapshot = kNone;
}

}  // namespace kt
