#pragma once

#include "runtime/serve/fields.h"

namespace kt {

// Clients send new members every month, and what nobody knows is ignored. What is known to change an answer, and cannot
// be done here, is refused by name: it would be lost without a word. Values that ask for nothing are taken.

// In any request for text, also in its sampling parameters. Throws BadRequest.
void refuse_unsupported(const Fields& fields);

// Beside them, in chats: members that other requests have, or that go past the template.
void refuse_unsupported_in_chat(const Fields& fields);

}  // namespace kt
