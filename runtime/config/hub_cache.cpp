#include "runtime/config/hub_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/base/home.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

struct HubName {
  std::string org, name, revision;
};

// What a repository's name, or a part of a revision, is made of. No ".." either.
bool is_word(std::string_view text) {
  const auto fits = [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && std::all_of(text.begin(), text.end(), fits) && text.front() != '.' &&
         text.find("..") == text.npos;
}

bool is_revision(std::string_view text) {
  const size_t slash = text.find('/');
  return is_word(text.substr(0, slash)) && (slash == text.npos || is_revision(text.substr(slash + 1)));
}

std::optional<HubName> read_hub_name(const std::string& value) {
  const size_t at = value.find('@'), slash = value.substr(0, at).find('/');
  if (slash == std::string::npos) return std::nullopt;
  const std::string path = value.substr(0, at);
  HubName name{path.substr(0, slash), path.substr(slash + 1), at == std::string::npos ? "main" : value.substr(at + 1)};
  if (!is_word(name.org) || !is_word(name.name) || !is_revision(name.revision)) return std::nullopt;
  return name;
}

std::string first_line(const fs::path& file) {
  std::string line;
  std::getline(std::ifstream(file), line);
  return line;
}

// "main, v2": the revisions that have names here.
std::string revisions_in(const fs::path& refs) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(refs, error))
    if (entry.is_regular_file(error)) names.push_back(entry.path().lexically_relative(refs).string());
  std::sort(names.begin(), names.end());
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

fs::path hub_cache(const std::function<std::string(const char*)>& variable) {
  const std::string home = variable("HOME");
  const auto folder = [&](const char* name) { return fs::path(expand_home(variable(name), home)); };
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (!folder(name).empty()) return folder(name);
  if (!folder("HF_HOME").empty()) return folder("HF_HOME") / "hub";
  const fs::path cache = folder("XDG_CACHE_HOME");
  return (cache.empty() ? fs::path(home) / ".cache" : cache) / "huggingface/hub";
}

std::string model_folder(std::string_view option, const std::string& value) {
  std::error_code error;
  const std::optional<HubName> wanted = fs::exists(value, error) ? std::nullopt : read_hub_name(value);
  if (!wanted) return value;
  const auto& [org, name, revision] = *wanted;
  const fs::path cache = hub_cache([](const char* variable) {
    const char* text = std::getenv(variable);
    return std::string(text ? text : "");
  });
  const fs::path model = cache / fmt::format("models--{}--{}", org, name);
  const std::string commit = first_line(model / "refs" / revision);
  const fs::path snapshot = model / "snapshots" / (is_word(commit) ? commit : revision);
  if (fs::is_directory(snapshot, error)) return snapshot.string();

  const std::string others = revisions_in(model / "refs");
  fail(kExitModel,
       "{} {}: there is no such folder, and Hugging Face's cache {} has no {}{}\n  try: hf download {}/{}{}", option,
       value, cache.string(), fs::exists(model, error) ? "revision " + revision + " of it" : "such model",
       others.empty() ? "" : ", but " + others, org, name, revision == "main" ? "" : " --revision " + revision);
}

RunConfig with_model_folders(RunConfig run) {
  run.model = model_folder("model", run.model);
  run.tokenizer_path = model_folder("tokenizer-path", run.tokenizer_path);
  run.kt_weight_path = model_folder("kt-weight-path", run.kt_weight_path);
  return run;
}

}  // namespace kt
