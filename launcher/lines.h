#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// How a member of a line is shown in a table.
struct Column {
  std::string_view member;      // several, split by '|': the first that the line has
  std::string_view title = {};  // by default the member
  int digits = -1;              // of numbers, after the point; -1: as they are
  int width = 7;                // at least, and that of the title; of the last column it does not matter
  bool left = false;            // aligned to the left, as words are
};

// One line of a table: a flat JSON object by its columns, or with nullptr their titles. What is longer than its column
// pushes the rest.
std::string table_line(const std::vector<Column>& columns, const nlohmann::ordered_json* line);

// Whether people read what this process prints. mpirun gives its ranks terminals of its own, so there it is asked what
// mpirun prints to.
bool prints_to_terminal();

// Prints what a command finds, line by line as it comes: a table whose columns the command names, with titles above
// the first line; or JSON Lines, for programs.
class Lines {
 public:
  Lines(std::vector<Column> columns, bool table) : columns_(std::move(columns)), table_(table) {}

  void print(const nlohmann::ordered_json& line);

 private:
  std::vector<Column> columns_;
  bool table_, begun_ = false;
};

}  // namespace kt
