#include "runtime/serve/http/page.h"

#include <fmt/format.h>

#include <algorithm>

namespace kt {

HttpResponse make_page() {
  return {.body = std::string(page_index()),
          .content_type = "text/html; charset=utf-8",
          // The last two: text becomes HTML in one place only, markdown.js.
          .security_policy =
              "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src data:; "
              "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
              "trusted-types ktmpi; require-trusted-types-for 'script'",
          .cache_control = "no-cache"};
}

HttpResponse make_page_file(std::string_view path) {
  const std::string_view name = path.substr(std::string_view("/page/").size());
  const std::span<const PageFile> files = page_files();
  const auto file = std::find_if(files.begin(), files.end(), [&](const PageFile& f) { return f.name == name; });
  if (file == files.end())
    return error_response(
        {404, fmt::format("there is no {}; the page at / names the files of this version", path), "", "not_found"});
  return {.body = std::string(file->bytes),
          .content_type = std::string(file->content_type),
          .cache_control = "public, max-age=31536000, immutable",
          .content_encoding = std::string(file->encoding)};
}

}  // namespace kt
