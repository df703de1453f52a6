#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace kt {

// A fast 64-bit checksum of bytes, against damage and mix-ups, not against intent. Four lanes take 64-bit little-endian
// words in turn: lane = rotl((lane ^ word) * P, 29), P the prime of FNV-1a. The rotation carries high bits down, which
// multiplication alone never does. The last step is filled up with zeros; then the length and the lanes are folded the
// same way and finished as SplitMix64 does. Depends on how updates cut the bytes only if cuts are no multiples of 32.
class Checksum {
 public:
  void update(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    size_t i = 0;
    for (; i + kStep <= bytes.size(); i += kStep) take(bytes.data() + i);
    if (i == bytes.size()) return;
    std::byte rest[kStep] = {};
    std::memcpy(rest, bytes.data() + i, bytes.size() - i);
    take(rest);
  }
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }

  uint64_t value() const {
    uint64_t h = length_;
    for (const uint64_t lane : lane_) h = mixed(h, lane);
    h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9u;
    h = (h ^ (h >> 27)) * 0x94d049bb133111ebu;
    return h ^ (h >> 31);
  }

 private:
  static constexpr size_t kStep = 32;
  static uint64_t mixed(uint64_t lane, uint64_t word) { return std::rotl((lane ^ word) * 0x100000001b3u, 29); }
  void take(const std::byte* bytes) {
    uint64_t word[4];
    std::memcpy(word, bytes, kStep);
    for (int i = 0; i < 4; ++i) lane_[i] = mixed(lane_[i], word[i]);
  }

  uint64_t lane_[4] = {0xcbf29ce484222325u, 0x9e3779b97f4a7c15u, 0xbf58476d1ce4e5b9u, 0x94d049bb133111ebu};
  uint64_t length_ = 0;
};

}  // namespace kt
