#include "runtime/step/step.h"

#include <bit>
#include <cstring>

#include "runtime/base/error.h"

namespace kt {
namespace {

// Layout, little-endian, no padding: Header, slices x SeqSlice (8 x i32), tokens x i32, blocks x i32,
// (slices + 1) x i32 of block_begin, (moves + bring) x ExpertMove (3 x i32). The length of the message follows from the
// header.
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(SeqSlice) == 8 * sizeof(int32_t));
static_assert(sizeof(ExpertMove) == 3 * sizeof(int32_t));

constexpr uint32_t kMagic = 0x5054534b;  // "KSTP"
constexpr uint32_t kVersion = 6;
enum Flag : uint32_t { kCounts = 1, kIds = 2, kLayerwise = 4, kTakeOver = 8, kSliced = 16 };

struct Header {
  uint32_t magic = kMagic, version = kVersion;
  uint64_t step = 0;
  uint32_t slices = 0, tokens = 0, blocks = 0, moves = 0, bring = 0, flags = 0;
};
static_assert(sizeof(Header) == 40);

size_t size_of(const Header& header) {
  return sizeof(Header) + 4 * (9 * size_t{header.slices} + 1 + header.tokens + header.blocks +
                               3 * (size_t{header.moves} + header.bring));
}

uint32_t flags_of(const StepOrders& o) {
  return (o.counts ? kCounts : 0u) | (o.ids ? kIds : 0u) | (o.layerwise ? kLayerwise : 0u) |
         (o.take_over ? kTakeOver : 0u) | (o.sliced ? kSliced : 0u);
}

// The caller has made room for `count` values.
template <class T>
void put(std::span<std::byte>& bytes, const T* values, size_t count) {
  if (count > 0) std::memcpy(bytes.data(), values, count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
}

// The caller has checked that `count` values are there.
template <class T>
std::vector<T> get(std::span<const std::byte>& bytes, size_t count) {
  std::vector<T> values(count);
  if (count > 0) std::memcpy(values.data(), bytes.data(), count * sizeof(T));
  bytes = bytes.subspan(count * sizeof(T));
  return values;
}

template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  fail(kExitPeerLost, "step plan: {}", fmt::format(format, std::forward<Args>(args)...));
}

void check_slice(const StepPlan& plan, size_t i) {
  const SeqSlice& s = plan.slices[i];
  if (s.slot < 0 || s.first < 0 || s.count < 1 || s.logits_from < 0 || s.logits_from > s.count || s.prompt < 0) {
    refuse("slice {} has slot {}, first {}, count {}, logits_from {}, prompt {}", i, s.slot, s.first, s.count,
           s.logits_from, s.prompt);
  }
  if (s.load < -1 || (s.load >= 0 && (s.first == 0 || s.first % kBlockTokens != 0))) {
    refuse("slice {} loads snapshot {} at position {}", i, s.load, s.first);
  }
  if (s.save < -1 || s.save_after < (s.save >= 0) || s.save_after > s.count ||
      (s.save >= 0 && (int64_t{s.first} + s.save_after) % kBlockTokens != 0)) {
    refuse("slice {} saves snapshot {} after {} of {} tokens from position {}", i, s.save, s.save_after, s.count,
           s.first);
  }
  const int64_t begin = plan.block_begin[i], end = plan.block_begin[i + 1];
  const int64_t needed = (int64_t{s.first} + s.count + kBlockTokens - 1) / kBlockTokens;
  if (end - begin < needed) {
    refuse("slice {} ends at position {} and has {} blocks; {} needed", i, int64_t{s.first} + s.count, end - begin,
           needed);
  }
}

void check(const StepPlan& plan) {
  const std::vector<int32_t>& begin = plan.block_begin;
  if (begin.front() != 0 || begin.back() != static_cast<int64_t>(plan.blocks.size())) {
    refuse("block_begin runs from {} to {}, expected 0 to {}", begin.front(), begin.back(), plan.blocks.size());
  }
  uint64_t rows = 0;
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    check_slice(plan, i);
    rows += static_cast<uint64_t>(plan.slices[i].count);
  }
  if (rows != plan.tokens.size()) refuse("the slices count {} tokens, {} are there", rows, plan.tokens.size());
  for (const int32_t token : plan.tokens) {
    if (token < 0) refuse("token id {}", token);
  }
  for (const int32_t block : plan.blocks) {
    if (block < 0) refuse("block {}", block);
  }
}

}  // namespace

std::vector<std::byte> encode(const StepPlan& plan) {
  const Header header{.step = plan.step,
                      .slices = static_cast<uint32_t>(plan.slices.size()),
                      .tokens = static_cast<uint32_t>(plan.tokens.size()),
                      .blocks = static_cast<uint32_t>(plan.blocks.size()),
                      .moves = static_cast<uint32_t>(plan.orders.moves.size()),
                      .bring = static_cast<uint32_t>(plan.orders.bring.size()),
                      .flags = flags_of(plan.orders)};
  std::vector<std::byte> bytes(size_of(header));
  std::span<std::byte> rest = bytes;
  put(rest, &header, 1);
  put(rest, plan.slices.data(), plan.slices.size());
  put(rest, plan.tokens.data(), plan.tokens.size());
  put(rest, plan.blocks.data(), plan.blocks.size());
  // A plan without slices may leave block_begin empty.
  const int32_t zero = 0;
  put(rest, plan.block_begin.empty() ? &zero : plan.block_begin.data(), plan.slices.size() + 1);
  put(rest, plan.orders.moves.data(), plan.orders.moves.size());
  put(rest, plan.orders.bring.data(), plan.orders.bring.size());
  return bytes;
}

StepPlan decode_step_plan(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof(Header)) refuse("{} bytes, at least {} expected", bytes.size(), sizeof(Header));
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (header.magic != kMagic) refuse("starts with {:08x}, expected {:08x}", header.magic, kMagic);
  if (header.version != kVersion) {
    refuse("version {}, expected {}: the ranks run different builds of ktmpi", header.version, kVersion);
  }
  if (bytes.size() != size_of(header)) refuse("{} bytes, {} expected from its header", bytes.size(), size_of(header));
  bytes = bytes.subspan(sizeof(Header));
  StepPlan plan;
  plan.step = header.step;
  plan.slices = get<SeqSlice>(bytes, header.slices);
  plan.tokens = get<int32_t>(bytes, header.tokens);
  plan.blocks = get<int32_t>(bytes, header.blocks);
  plan.block_begin = get<int32_t>(bytes, size_t{header.slices} + 1);
  plan.orders = {.counts = (header.flags & kCounts) != 0,
                 .ids = (header.flags & kIds) != 0,
                 .layerwise = (header.flags & kLayerwise) != 0,
                 .sliced = (header.flags & kSliced) != 0,
                 .moves = get<ExpertMove>(bytes, header.moves),
                 .bring = get<ExpertMove>(bytes, header.bring),
                 .take_over = (header.flags & kTakeOver) != 0};
  check(plan);
  return plan;
}

}  // namespace kt
