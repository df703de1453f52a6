#pragma once

#include <filesystem>

namespace kt {

// What programs of this user remember: $XDG_STATE_HOME/ktmpi or ~/.local/state/ktmpi. "": there is no home.
std::filesystem::path state_folder();

// Makes a folder that only its owner may enter, and those above it. False: it is not there and cannot be made.
bool make_private_folder(const std::filesystem::path& folder);

}  // namespace kt
