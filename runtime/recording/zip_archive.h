#pragma once

#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

struct zip;

namespace kt {

// A zip archive whose entries are stored as they are, which is all that torch.save makes. The library checks their
// checksums. Throws Error(kExitUsage) for a file that is absent, cut or damaged.
class ZipReader {
 public:
  explicit ZipReader(std::filesystem::path path);

  std::vector<std::string> names() const;
  std::optional<std::string> read(const std::string& name) const;  // nullopt: there is no such entry

 private:
  std::filesystem::path path_;
  std::unique_ptr<zip, void (*)(zip*)> archive_;
};

// Makes such an archive. The file appears, whole, with finish(); without it nothing does.
class ZipWriter {
 public:
  explicit ZipWriter(std::filesystem::path path);

  void add(const std::string& name, std::string bytes);
  void finish();  // throws Error(kExitUsage) with the reason: no room, no such folder

 private:
  std::filesystem::path path_;
  std::unique_ptr<zip, void (*)(zip*)> archive_;
  std::deque<std::string> entries_;  // the library reads them in finish()
};

}  // namespace kt
