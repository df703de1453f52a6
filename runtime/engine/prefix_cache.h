#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/engine/blocks.h"
#include "runtime/step/step.h"

namespace kt {

// The KV pool and what it remembers: a radix tree whose edges are blocks of kBlockTokens tokens, as in SGLang's
// RadixAttention (Zheng et al., 2024) with a page as the unit. A node is the block that ends there and bears its
// number, so the tree takes no memory of its own and nodes never split. Blocks are free, taken by a sequence, or in the
// tree; those in the tree that nobody holds are given out again, the least recently released first, leaves before their
// parents.
//
// For models with recurrent state keys and values are not enough to go on from a node: the state there is needed too.
// Snapshots of it are a second pool, of numbers only; where they lie is the ranks' business. Nobody needs to hold one:
// a state is copied when a sequence starts from it, so the least recently used is given up for a new one.
//
// Pure bookkeeping on integers; one thread.
class PrefixCache {
 public:
  static constexpr int32_t kRoot = -1;  // the place before the first token
  static constexpr int32_t kNone = -1;  // no snapshot

  PrefixCache(int blocks, bool recurrent, int snapshots);

  struct Match {
    int32_t node = kRoot;      // the last block of the prefix
    int blocks = 0;            // its length
    int32_t snapshot = kNone;  // recurrent: the state after it
    int fork = 0;  // recurrent: length of a longer known prefix without a state, from where others went on; 0: none
  };
  // The longest prefix of `tokens` that a sequence can start from, at most max_blocks long. `salt` parts what must not
  // be shared.
  Match match(std::string_view salt, std::span<const int32_t> tokens, int max_blocks) const;

  // Keeps a node and all before it in the tree; as many releases end it. kRoot is a node here.
  void hold(int32_t node);
  void release(int32_t node);
  // Appends the blocks from the first to `node`.
  void append_path(int32_t node, std::vector<int32_t>& blocks) const;
  // The place after `parent`, which the caller holds, for its block of kBlockTokens `tokens`; the hold passes on to it.
  // If these tokens were known there, their block is returned and the caller's is free again: equal tokens after an
  // equal prefix have equal keys and values, to the bit.
  int32_t extend(int32_t parent, std::string_view salt, std::span<const int32_t> tokens, int32_t block);

  // Appends `count` blocks, free or evicted ones; or returns false and changes nothing.
  bool take(int count, std::vector<int32_t>& blocks);
  void give_back(std::span<const int32_t> blocks) { blocks_.give_back(blocks); }
  // Evicts all that nobody holds.
  void flush();

  // A number to save a state under; kNone if all are being saved under right now.
  int32_t take_snapshot();
  // Nothing was saved under it.
  void give_back_snapshot(int32_t snapshot) { free_snapshots_.push_back(snapshot); }
  // The state after `node` was saved under `snapshot`. If there is one already the new one is free again.
  void attach_snapshot(int32_t node, int32_t snapshot);
  // Gives up the state before `node` unless other paths start there too.
  void drop_snapshot_before(int32_t node);

  bool recurrent() const { return recurrent_; }
  int total() const { return blocks_.total(); }
  int cached() const { return evictable_; }      // blocks that nobody holds
  uint64_t evicted() const { return evicted_; }  // blocks, by take, since the start
  int available() const { return blocks_.free_count() + evictable_; }
  int used_snapshots() const { return static_cast<int>(snapshots_.size() - free_snapshots_.size()); }

 private:
  struct Edge {
    int32_t parent;
    std::string salt;  // of a first block; later ones have it by their parent
    std::array<int32_t, kBlockTokens> tokens;
    auto operator<=>(const Edge&) const = default;
  };
  using Edges = std::map<Edge, int32_t>;  // to the node below
  struct Node {
    int32_t parent = kRoot;
    int children = 0, holders = 0;  // holders: of it or of a node below
    uint64_t released = 0;
    int32_t snapshot = kNone;
    Edges::iterator edge;  // that leads here
  };
  struct Snapshot {
    int32_t node = kRoot;  // kRoot: free or being saved
    uint64_t used = 0;
  };

  static Edge edge_of(int32_t parent, std::string_view salt, std::span<const int32_t> tokens);
  Node& at(int32_t node) { return nodes_[static_cast<size_t>(node)]; }
  const Node& at(int32_t node) const { return nodes_[static_cast<size_t>(node)]; }
  void evict_one();
  void drop_snapshot(Node& node);

  BlockAllocator blocks_;
  const bool recurrent_;
  std::vector<Node> nodes_;  // by block
  Edges edges_;
  std::set<std::pair<uint64_t, int32_t>> leaves_;  // (released, node) that nobody holds
  int evictable_ = 0;
  uint64_t evicted_ = 0;
  std::vector<Snapshot> snapshots_;
  std::vector<int32_t> free_snapshots_;
  uint64_t clock_ = 0;
};

}  // namespace kt
