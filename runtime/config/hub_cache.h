#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include "runtime/config/run_config.h"

namespace kt {

// The folder in which Hugging Face's tools keep what they download. `variable`: of the environment, "" if it is not
// set.
std::filesystem::path hub_cache(const std::function<std::string(const char* name)>& variable);

// A folder as it is given; "ORG/NAME" or "ORG/NAME@REVISION", where there is no such folder, is the snapshot of that
// model in Hugging Face's cache. Anything else is left as it is. Throws Error(kExitModel) with what downloads the model
// when the cache does not have it; `option` is what the value was given for.
std::string model_folder(std::string_view option, const std::string& value);

RunConfig with_model_folders(RunConfig run);  // all that name one

}  // namespace kt
