#include "runtime/serve/sglang/recording_endpoints.h"

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace kt {
namespace {

const ApiError kNoRecorder{404, "this server does not record the expert distribution", "", "not_found"};

}  // namespace

OrError<std::string> start_recording(Recorder* recorder) {
  if (!recorder) return kNoRecorder;
  return recorder->start() ? "Start recording the expert distribution.\n"
                           : "Start recording the expert distribution again: what was recorded is forgotten.\n";
}

OrError<std::string> stop_recording(Recorder* recorder) {
  if (!recorder) return kNoRecorder;
  return recorder->stop() ? "Stop recording the expert distribution.\n"
                          : "The expert distribution was not being recorded.\n";
}

OrError<std::string> dump_recording(Recorder* recorder) {
  if (!recorder) return kNoRecorder;
  try {
    const std::vector<std::filesystem::path> files = recorder->dump();
    if (files.empty())
      return ApiError{400,
                      "no step was recorded: POST /start_expert_distribution_record, then send requests, then dump", "",
                      "nothing_recorded"};
    std::string answer = "Dump expert distribution record to";
    for (const std::filesystem::path& file : files) answer += ' ' + file.string();
    log("{}", answer);
    return answer + '\n';
  } catch (const Error& e) {
    return ApiError{500, e.what(), "", "internal_error"};
  }
}

}  // namespace kt
