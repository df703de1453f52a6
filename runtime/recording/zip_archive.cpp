#include "runtime/recording/zip_archive.h"

#include <zip.h>

#include <utility>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Archive = std::unique_ptr<zip, void (*)(zip*)>;

Archive open_archive(const std::filesystem::path& path, int flags) {
  int code = 0;
  if (zip* archive = zip_open(path.c_str(), flags, &code)) return {archive, zip_discard};
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  const std::string why = zip_error_strerror(&error);
  zip_error_fini(&error);
  fail(kExitUsage, "{}: {}", path.string(), why);
}

}  // namespace

ZipReader::ZipReader(std::filesystem::path path)
    : path_(std::move(path)), archive_(open_archive(path_, ZIP_RDONLY | ZIP_CHECKCONS)) {}

std::vector<std::string> ZipReader::names() const {
  std::vector<std::string> names;
  const auto count = static_cast<zip_uint64_t>(zip_get_num_entries(archive_.get(), 0));
  for (zip_uint64_t i = 0; i < count; ++i) {
    const char* name = zip_get_name(archive_.get(), i, 0);
    names.emplace_back(name ? name : "");
  }
  return names;
}

std::optional<std::string> ZipReader::read(const std::string& name) const {
  const zip_int64_t index = zip_name_locate(archive_.get(), name.c_str(), 0);
  if (index < 0) return std::nullopt;
  const auto at = static_cast<zip_uint64_t>(index);
  zip_stat_t stat;
  if (zip_stat_index(archive_.get(), at, 0, &stat) != 0 || !(stat.valid & ZIP_STAT_SIZE) ||
      !(stat.valid & ZIP_STAT_COMP_METHOD))
    fail(kExitUsage, "{}: the entry {} has no size", path_.string(), name);
  // What is stored is no larger than the file; what is compressed could unfold to anything.
  if (stat.comp_method != ZIP_CM_STORE || stat.size > std::filesystem::file_size(path_))
    fail(kExitUsage, "{}: the entry {} is compressed, which torch.save never does", path_.string(), name);

  const std::unique_ptr<zip_file_t, int (*)(zip_file_t*)> entry(zip_fopen_index(archive_.get(), at, 0), zip_fclose);
  if (!entry) fail(kExitUsage, "{}: the entry {}: {}", path_.string(), name, zip_strerror(archive_.get()));
  std::string bytes(stat.size, '\0');
  const zip_int64_t got = zip_fread(entry.get(), bytes.data(), bytes.size());
  char beyond;  // reading to the end is what makes the library compare the checksum
  if (got != static_cast<zip_int64_t>(bytes.size()) || zip_fread(entry.get(), &beyond, 1) != 0)
    fail(kExitUsage, "{}: the entry {} is damaged: {}", path_.string(), name, zip_file_strerror(entry.get()));
  return bytes;
}

ZipWriter::ZipWriter(std::filesystem::path path)
    : path_(std::move(path)), archive_(open_archive(path_, ZIP_CREATE | ZIP_TRUNCATE)) {}

void ZipWriter::add(const std::string& name, std::string bytes) {
  const std::string& kept = entries_.emplace_back(std::move(bytes));
  zip_source_t* source = zip_source_buffer(archive_.get(), kept.data(), kept.size(), 0);
  const zip_int64_t index = source ? zip_file_add(archive_.get(), name.c_str(), source, ZIP_FL_ENC_UTF_8) : -1;
  if (index < 0 || zip_set_file_compression(archive_.get(), static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0) != 0) {
    if (index < 0 && source) zip_source_free(source);
    fail(kExitUsage, "{}: the entry {}: {}", path_.string(), name, zip_strerror(archive_.get()));
  }
}

void ZipWriter::finish() {
  if (zip_close(archive_.get()) != 0)
    fail(kExitUsage, "{}: cannot be written: {}", path_.string(), zip_strerror(archive_.get()));
  (void)archive_.release();
}

}  // namespace kt
