#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>

#include "runtime/engine/request.h"

namespace kt {

// Why a client does not get what it asked for. The one shape of all error answers:
//   {"error": {"message", "type", "param", "code"}, "object": "error", "message", "type", "code"}
// The nested object is OpenAI's; the copies beside it are what clients written for SGLang read.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param;  // the field at fault, "messages[3].content"; "": null
  std::string code;   // OpenAI's word for it, "model_not_found"; "": null
};

template <class T>
using OrError = std::variant<T, ApiError>;

std::string_view error_type(int status);  // "invalid_request_error", ...
std::string to_json(const ApiError& error);
ApiError to_api_error(const Rejection& rejection, std::string param);

// Inside one conversion a mistake ends the reading at once; the conversion's entry point makes it a value again.
struct BadRequest : std::runtime_error {
  BadRequest(std::string param, const std::string& message, std::string code = "")
      : std::runtime_error(message), error{400, message, std::move(param), std::move(code)} {}
  ApiError error;
};

// f() as a value: its result, or the ApiError of the BadRequest it threw.
template <class F>
auto or_error(F&& f) -> OrError<decltype(f())> {
  try {
    return f();
  } catch (const BadRequest& bad) {
    return bad.error;
  }
}

}  // namespace kt
