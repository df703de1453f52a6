#include "runtime/serve/http/page.h"

#include <fmt/format.h>

namespace kt {

HttpResponse make_page() {
  constexpr std::string_view kMark = "NONCE";
  const std::string nonce = random_id();
  std::string html(page_text());
  for (size_t at = 0; (at = html.find(kMark, at)) != html.npos; at += nonce.size())
    html.replace(at, kMark.size(), nonce);
  return {.body = std::move(html),
          .content_type = "text/html; charset=utf-8",
          .security_policy =
              fmt::format("default-src 'self'; img-src 'self' data:; script-src 'nonce-{0}'; style-src 'nonce-{0}'; "
                          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                          nonce)};
}

}  // namespace kt
