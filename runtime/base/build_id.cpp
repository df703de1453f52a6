#include "runtime/base/build_id.h"

#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <cstring>

namespace kt {
namespace {

constexpr size_t kShown = 6;  // bytes

constexpr size_t padded(size_t bytes) { return (bytes + 3) / 4 * 4; }

// The note NT_GNU_BUILD_ID of a segment of notes, each a header, a name and a description.
std::string id_in(const unsigned char* at, size_t bytes) {
  for (size_t size = 0; bytes >= sizeof(ElfW(Nhdr)); at += size, bytes -= size) {
    ElfW(Nhdr) note;
    std::memcpy(&note, at, sizeof note);
    const unsigned char* name = at + sizeof note;
    const unsigned char* id = name + padded(note.n_namesz);
    size = sizeof note + padded(note.n_namesz) + padded(note.n_descsz);
    if (size > bytes) break;
    if (note.n_type != NT_GNU_BUILD_ID || note.n_namesz != 4 || std::memcmp(name, "GNU", 4) != 0) continue;
    std::string text;
    for (size_t i = 0; i < std::min<size_t>(note.n_descsz, kShown); ++i) text += fmt::format("{:02x}", id[i]);
    return text;
  }
  return {};
}

}  // namespace

std::string build_id() {
  std::string id;
  dl_iterate_phdr(
      [](dl_phdr_info* program, size_t, void* found) {
        for (int i = 0; i < program->dlpi_phnum; ++i) {
          const auto& segment = program->dlpi_phdr[i];
          if (segment.p_type != PT_NOTE) continue;
          const auto* at = reinterpret_cast<const unsigned char*>(program->dlpi_addr + segment.p_vaddr);
          const std::string text = id_in(at, segment.p_memsz);
          if (!text.empty()) *static_cast<std::string*>(found) = text;
        }
        return 1;  // the first one is the program, the others are libraries
      },
      &id);
  return id;
}

}  // namespace kt
