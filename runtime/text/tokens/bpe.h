#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kt {

// Lets maps with std::string keys be searched by views.
struct StringHash : std::hash<std::string_view> {
  using is_transparent = void;
};
template <class Value>
using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

// Byte-pair encoding as Hugging Face tokenizers defines it: of all neighbours for which a merge exists, those with the
// lowest rank are merged first, the leftmost on a tie. Immutable to its callers; any thread may encode.
class Bpe {
 public:
  struct Merge {
    uint32_t rank;                // several merges may have the same
    int32_t left, right, merged;  // token ids
  };
  static constexpr int32_t kNoToken = -1;

  // byte_ids: the token of each single byte; kNoToken: the byte is left out of the encoding, as the reference does for
  // vocabularies that lack bytes.
  // whole_pieces (ignore_merges): a piece that is a key becomes this one token.
  Bpe(const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges, StringMap<int32_t> whole_pieces);
  ~Bpe();
  Bpe(Bpe&&) noexcept;

  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  class MergeTable;
  class PieceCache;

  void merge(std::string_view piece, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_ids_;
  StringMap<int32_t> whole_pieces_;
  std::unique_ptr<MergeTable> merges_;
  std::unique_ptr<PieceCache> cache_;
};

}  // namespace kt
