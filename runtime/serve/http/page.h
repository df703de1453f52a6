#pragma once

#include <span>
#include <string_view>

#include "runtime/serve/service.h"

namespace kt {

// What the page loads, below "/page/".
struct PageFile {
  std::string_view name;  // "<what all files hold, hashed>/page.css"
  std::string_view content_type;
  std::string_view encoding;  // "gzip", or "" as it is
  std::string_view bytes;
};

// Made by the build of the files in page/ and of the libraries that page/page.cmake names.
std::string_view page_index();
std::span<const PageFile> page_files();

// The page at "/". Its content security policy lets it run this server's scripts and ask this server, nothing else.
HttpResponse make_page();

// `path`: "/page/...".
HttpResponse make_page_file(std::string_view path);

}  // namespace kt
