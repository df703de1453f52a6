#include "runtime/client/state_folder.h"

#include <cstdlib>
#include <system_error>

namespace kt {

namespace fs = std::filesystem;

fs::path state_folder() {
  const char *state = std::getenv("XDG_STATE_HOME"), *home = std::getenv("HOME");
  if (state && *state == '/') return fs::path(state) / "ktmpi";  // the specification of XDG wants others ignored
  return home && *home == '/' ? fs::path(home) / ".local/state/ktmpi" : fs::path();
}

bool make_private_folder(const fs::path& folder) {
  std::error_code error;
  if (fs::is_directory(folder, error)) return true;
  if (!fs::create_directories(folder, error)) return false;
  fs::permissions(folder, fs::perms::owner_all, error);
  return !error;
}

}  // namespace kt
