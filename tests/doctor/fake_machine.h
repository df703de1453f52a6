#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "runtime/doctor/site.h"
#include "tests/temp_folder.h"

namespace kt {

// A folder that looks like a machine's root.
class FakeMachine {
 public:
  void write(const std::string& file, std::string_view text) const {
    std::filesystem::create_directories((folder_.path() / file).parent_path());
    folder_.write(file, text);
  }
  const std::filesystem::path& root() const { return folder_.path(); }
  // In hwloc's words, all of it left to this process.
  Site site(const std::string& machine = "numa:1 core:4 pu:1") const {
    Site site{.root = root(), .machine = read_machine(machine)};
    for (const Cpu& cpu : site.machine.cpus) site.allowed_cpus.push_back(cpu.id);
    return site;
  }

 private:
  TempFolder folder_;
};

}  // namespace kt
