#pragma once

#include <string>

#include "runtime/serve/openai/responses_store.h"
#include "runtime/serve/service.h"

namespace kt {

// What a client may ask of a stored response, by its id. All answer 404 for one that is not there, or is another's.
HttpResponse show_response(const HttpRequest& request, const std::string& id, ResponseStore& store,
                           const std::string& owner);
HttpResponse forget_response(const std::string& id, ResponseStore& store, const std::string& owner);
HttpResponse list_input_items(const HttpRequest& request, const std::string& id, ResponseStore& store,
                              const std::string& owner);
// Only a response that is being streamed can be; its stream ends with what there is.
Outcome cancel_response(const std::string& id, ResponseStore& store, const std::string& owner);

}  // namespace kt
