#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/serve/errors.h"
#include "runtime/serve/json.h"
#include "tests/serve/fakes.h"

namespace kt {

inline Job job_of(OrError<Job> parsed) {
  if (const ApiError* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::move(std::get<Job>(parsed));
}

inline std::string prompt_of(const Job& job, size_t choice = 0) {
  return decode(FakeTokenizer(), job.requests.at(choice).input_ids, false);
}

inline const Finish kStopped{Finish::Kind::stop, kFakeEos, ""};

// Gives the answer `text` in pieces of `bytes`, one token each, to choice 0: what the streams send meanwhile.
inline std::string play(Job& job, std::string_view text, size_t bytes, Finish finish = kStopped) {
  std::string events = job.stream ? job.answer->start() : "";
  int tokens = 0;
  for (size_t at = 0; at < text.size(); at += bytes) {
    Emission emission{.text = std::string(text.substr(at, bytes)), .prompt_tokens = 3, .completion_tokens = ++tokens};
    emission.tokens.push_back({'t', -0.5f, {}});
    events += job.answer->take(0, std::move(emission));
  }
  Emission end{.prompt_tokens = 3, .completion_tokens = ++tokens};
  end.tokens.push_back({kFakeEos, -0.5f, {}});
  end.finish = std::move(finish);
  events += job.answer->take(0, std::move(end));
  return events + job.answer->finish();
}

}  // namespace kt
