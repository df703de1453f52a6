#include "launcher/lines.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

std::string shown(const Json& value, int digits) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float() && digits >= 0) return fmt::format("{:.{}f}", value.get<double>(), digits);
  if (!value.is_array()) return value.dump();
  std::string list;
  for (const Json& item : value) list += (list.empty() ? "" : " ") + shown(item, digits);
  return list;
}

std::string cell(const Column& column, const Json* line) {
  const std::vector<std::string_view> members = split(column.member, '|');
  if (!line) return std::string(column.title.empty() ? members.front() : column.title);
  for (const std::string_view member : members)
    if (const auto found = line->find(std::string(member)); found != line->end()) return shown(*found, column.digits);
  return "-";
}

}  // namespace

std::string table_line(const std::vector<Column>& columns, const Json* line) {
  std::string text;
  for (size_t c = 0; c < columns.size(); ++c) {
    const Column& column = columns[c];
    const size_t width = std::max(cell(column, nullptr).size(), static_cast<size_t>(column.width));
    const bool last = c + 1 == columns.size();
    if (c > 0) text += "  ";
    text += column.left ? fmt::format("{:<{}}", cell(column, line), last ? 0 : width)
                        : fmt::format("{:>{}}", cell(column, line), width);
  }
  return text;
}

bool prints_to_terminal() {
  if (!isatty(STDOUT_FILENO)) return false;
  if (!std::getenv("OMPI_COMM_WORLD_SIZE")) return true;
  std::error_code error;
  const auto to = std::filesystem::read_symlink(fmt::format("/proc/{}/fd/{}", getppid(), STDOUT_FILENO), error);
  return !error && to.string().starts_with("/dev/pts/");
}

void Lines::print(const Json& line) {
  if (!table_) {
    fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  } else {
    if (!begun_) fmt::print("{}\n", table_line(columns_, nullptr));
    fmt::print("{}\n", table_line(columns_, &line));
  }
  begun_ = true;
  if (std::fflush(stdout) != 0) fail(kExitTryAgain, "stdout: a line could not be written");
}

}  // namespace kt
