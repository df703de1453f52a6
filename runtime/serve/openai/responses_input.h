#pragma once

#include <string>

#include "runtime/serve/fields.h"
#include "runtime/serve/json.h"
#include "runtime/serve/openai/responses_store.h"

namespace kt {

// The `input` of a request to /v1/responses as a list of items, each with its type and an id; a text is a message of
// the user. References are replaced by what the store has. Throws BadRequest.
Json read_input_items(const Fields& request, ResponseStore& store, const std::string& owner);

// Items as the messages of a chat. Throws BadRequest. path: of the list, for messages.
//   reasoning                     -> reasoning_content of the assistant's message that follows
//   calls next to each other      -> tool_calls of one message of the assistant, with its text
//   their outputs                 -> messages of the role tool
// Items of tools that this server does not have, and what another server has encrypted, say nothing to the model.
Json to_messages(const Json& items, const std::string& path);

// What the server gives as encrypted_content of reasoning: for clients that send back nothing else.
std::string seal_reasoning(const std::string& text);

}  // namespace kt
