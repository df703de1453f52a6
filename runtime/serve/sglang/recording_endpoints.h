#pragma once

#include <string>

#include "runtime/recording/recorder.h"
#include "runtime/serve/errors.h"

namespace kt {

// The answers, in plain text as SGLang's, of /start_, /stop_ and /dump_expert_distribution_record. A null recorder is
// that of a server that cannot record.
OrError<std::string> start_recording(Recorder* recorder);
OrError<std::string> stop_recording(Recorder* recorder);
OrError<std::string> dump_recording(Recorder* recorder);  // names the files

}  // namespace kt
