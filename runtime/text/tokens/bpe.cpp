#include "runtime/text/tokens/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <mutex>
#include <utility>

namespace kt {

// Open addressing with at most half of the places taken: one look-up is nearly always one cache line.
class Bpe::MergeTable {
 public:
  struct Found {
    uint32_t rank;
    int32_t merged;
  };

  explicit MergeTable(std::span<const Merge> merges)
      : places_(std::bit_ceil(2 * merges.size() + 1)), mask_(places_.size() - 1) {
    for (const Merge& merge : merges) {
      Place& place = places_[place_of(merge.left, merge.right)];
      place = {merge.left, merge.right, {merge.rank, merge.merged}};  // of equal pairs the last one counts
    }
  }

  const Found* find(int32_t left, int32_t right) const {
    const Place& place = places_[place_of(left, right)];
    return place.left == kNoToken ? nullptr : &place.found;
  }

 private:
  struct Place {
    int32_t left = kNoToken, right = kNoToken;
    Found found{};
  };

  size_t place_of(int32_t left, int32_t right) const {
    uint64_t hash = (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
    hash *= 0x9E3779B97F4A7C15u;  // 2^64 / golden ratio
    size_t i = (hash >> 32) & mask_;
    while (places_[i].left != kNoToken && !(places_[i].left == left && places_[i].right == right)) i = (i + 1) & mask_;
    return i;
  }

  std::vector<Place> places_;
  size_t mask_;
};

// Words repeat. Shards keep threads apart; a full shard is emptied, which costs less than choosing what to drop.
class Bpe::PieceCache {
 public:
  static constexpr size_t kMaxPieceBytes = 64;

  bool append(std::string_view piece, std::vector<int32_t>& ids) {
    Shard& shard = shard_of(piece);
    const std::lock_guard lock(shard.mutex);
    const auto entry = shard.ids_of.find(piece);
    if (entry == shard.ids_of.end()) return false;
    ids.insert(ids.end(), entry->second.begin(), entry->second.end());
    return true;
  }

  void store(std::string_view piece, std::span<const int32_t> ids) {
    Shard& shard = shard_of(piece);
    const std::lock_guard lock(shard.mutex);
    if (shard.ids_of.size() >= kPiecesPerShard) shard.ids_of.clear();
    shard.ids_of.try_emplace(std::string(piece), ids.begin(), ids.end());
  }

 private:
  static constexpr size_t kShards = 64, kPiecesPerShard = 1024;  // about 8 MB when full

  struct Shard {
    std::mutex mutex;
    StringMap<std::vector<int32_t>> ids_of;
  };

  Shard& shard_of(std::string_view piece) { return shards_[StringHash()(piece) % kShards]; }

  std::array<Shard, kShards> shards_;
};

Bpe::Bpe(const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges, StringMap<int32_t> whole_pieces)
    : byte_ids_(byte_ids),
      whole_pieces_(std::move(whole_pieces)),
      merges_(std::make_unique<MergeTable>(merges)),
      cache_(std::make_unique<PieceCache>()) {}
Bpe::~Bpe() = default;
Bpe::Bpe(Bpe&&) noexcept = default;

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() == 1) {
    if (const int32_t id = byte_ids_[static_cast<uint8_t>(piece[0])]; id != kNoToken) ids.push_back(id);
    return;
  }
  if (const auto whole = whole_pieces_.find(piece); whole != whole_pieces_.end()) {
    ids.push_back(whole->second);
    return;
  }
  if (piece.size() > PieceCache::kMaxPieceBytes) return merge(piece, ids);
  if (cache_->append(piece, ids)) return;
  const size_t before = ids.size();
  merge(piece, ids);
  cache_->store(piece, std::span(ids).subspan(before));
}

namespace {

// A run of the piece's first symbols, in a list from left to right. Its name is the index of its first symbol.
struct Symbol {
  int32_t id;
  uint32_t previous, next;  // the piece's symbol count: none
};

struct Candidate {
  uint32_t rank, left, end;  // merges the symbols left and next(left), which reach up to symbol `end`
  int32_t merged;

  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

}  // namespace

// O(n log n): pieces of tens of thousands of bytes occur.
void Bpe::merge(std::string_view piece, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char c : piece) {
    const uint32_t i = static_cast<uint32_t>(symbols.size());
    if (const int32_t id = byte_ids_[static_cast<uint8_t>(c)]; id != kNoToken) symbols.push_back({id, i - 1, i + 1});
  }
  const uint32_t count = static_cast<uint32_t>(symbols.size());
  if (count == 0) return;
  symbols[0].previous = count;

  std::vector<Candidate> heap;
  const auto consider = [&](uint32_t left) {
    if (left == count || symbols[left].next == count) return;
    const Symbol& right = symbols[symbols[left].next];
    const MergeTable::Found* found = merges_->find(symbols[left].id, right.id);
    if (!found) return;
    heap.push_back({found->rank, left, right.next, found->merged});
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (uint32_t i = 0; i + 1 < count; ++i) consider(i);

  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[best.left];
    // Symbols only grow. If the two still reach exactly as far as when they were seen, neither has changed.
    if (left.id == kNoToken || left.next == count || symbols[left.next].next != best.end) continue;
    symbols[left.next].id = kNoToken;
    left.id = best.merged;
    left.next = best.end;
    if (best.end != count) symbols[best.end].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (uint32_t i = 0; i != count; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace kt
