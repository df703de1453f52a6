#include "runtime/checkpoint/fingerprint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "runtime/checkpoint/checksum.h"
#include "runtime/checkpoint/shown.h"

namespace kt {

std::string fingerprint(const Checkpoint& checkpoint, std::string_view config) {
  struct Ends {
    std::span<const std::byte> first, last;
  };
  std::map<std::string_view, Ends> files;
  const std::vector<std::string_view> names = checkpoint.names();
  for (const std::string_view name : names) {
    const StoredTensor& t = *checkpoint.find(name);
    Ends& ends = files.try_emplace(t.file, Ends{t.bytes, t.bytes}).first->second;
    if (t.bytes.data() < ends.first.data()) ends.first = t.bytes;
    if (t.bytes.data() > ends.last.data()) ends.last = t.bytes;
  }
  Checksum sum;
  sum.update(config);
  for (const std::string_view name : names) {
    const StoredTensor& t = *checkpoint.find(name);
    sum.update(fmt::format("{} {} {} {} {}", name, name_of(t.type), shown(t.shape), t.file,
                           t.bytes.data() - files[t.file].first.data()));
  }
  constexpr size_t kSample = 64;
  for (const auto& [file, ends] : files)
    for (const auto bytes : {ends.first, ends.last}) sum.update(bytes.first(std::min(kSample, bytes.size())));
  return fmt::format("{:016x}", sum.value());
}

std::string sampled_content(const Checkpoint& checkpoint) {
  constexpr size_t kWhole = size_t{64} << 20, kTensors = 256, kPiece = 4096;
  const std::vector<std::string_view> names = checkpoint.names();
  const bool whole = checkpoint.total_bytes() <= kWhole;
  Checksum sum;
  for (size_t i = 0, step = whole ? 1 : names.size() / kTensors + 1; i < names.size(); i += step) {
    const auto bytes = checkpoint.find(names[i])->bytes;
    if (whole || bytes.size() <= 3 * kPiece) {
      sum.update(bytes);
      continue;
    }
    for (const size_t at : {size_t{0}, bytes.size() / 2 - kPiece / 2, bytes.size() - kPiece})
      sum.update(bytes.subspan(at, kPiece));
  }
  return fmt::format("{:016x}", sum.value());
}

}  // namespace kt
