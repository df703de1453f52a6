#include "runtime/client/endpoint.h"

#include <curl/curl.h>

#include <memory>

#include "runtime/base/error.h"

namespace kt {
namespace {

// "": the URL has no such part.
std::string part_of(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, 0) != CURLUE_OK) return "";
  std::string copy = text;
  curl_free(text);
  return copy;
}

}  // namespace

Endpoint parse_url(std::string_view url, std::string_view api_key) {
  const auto refuse = [&](std::string_view why) {
    fail(kExitUsage, "{}: {}; expected http://HOST:PORT or https://HOST", url, why);
  };
  const std::string whole = (url.find("://") == url.npos ? "http://" : "") + std::string(url);
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (const CURLUcode wrong = curl_url_set(parsed.get(), CURLUPART_URL, whole.c_str(), CURLU_NON_SUPPORT_SCHEME))
    refuse(curl_url_strerror(wrong));
  const auto part = [&](CURLUPart which) { return part_of(parsed.get(), which); };
  const std::string scheme = part(CURLUPART_SCHEME), port = part(CURLUPART_PORT);
  if (scheme != "http" && scheme != "https") refuse("neither http nor https");
  if (!part(CURLUPART_USER).empty() || !part(CURLUPART_PASSWORD).empty()) refuse("a key belongs into api-key");
  if (whole.find_first_of("?#") != whole.npos) refuse("a query in a URL");

  std::string path = part(CURLUPART_PATH);
  while (path.ends_with('/')) path.pop_back();
  if (path.ends_with("/v1")) path.resize(path.size() - 3);
  if (api_key.find_first_of("\r\n") != api_key.npos) fail(kExitUsage, "api-key: a key has no line breaks");
  return {.url = scheme + "://" + part(CURLUPART_HOST) + (port.empty() ? "" : ":" + port) + path,
          .api_key = std::string(api_key)};
}

}  // namespace kt
