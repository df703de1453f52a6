#pragma once

#include <string_view>

#include "runtime/serve/service.h"

namespace kt {

// page/index.html, made a source file by the build. NONCE in it stands for a word that differs in each answer.
std::string_view page_text();

// The page at "/". Its content security policy lets it run its own script and ask this server, nothing else.
HttpResponse make_page();

}  // namespace kt
