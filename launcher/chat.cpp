// `ktmpi chat`: asks a running server, in a terminal or line by line.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "launcher/chat_session.h"
#include "launcher/commands.h"
#include "launcher/line_input.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/client/models.h"
#include "runtime/client/servers_here.h"
#include "runtime/client/state_folder.h"
#include "runtime/serve/http/key_file.h"

namespace kt {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kSummary =
    "Usage: ktmpi chat [URL] [OPTION ...]\n\n"
    "Asks a running server: each line is a question, and so is all that is pasted at once or stands between two\n"
    "\"\"\". A line that begins with / is a command. Ctrl-C ends an answer or clears the line; Ctrl-D leaves. Where\n"
    "stdin is no terminal only answers are printed, and the exit code is 75 if one of them failed.";

struct Settings {
  std::string url, api_key, key_file;
  int max_tokens = 0;
  double temperature = 0, wait = 0;
  bool no_history = false;
  Patience patience;
  ChatSettings chat;
};

// False: only help was asked for.
bool parse(int argc, char** argv, Settings& s) {
  po::options_description options;
  const auto add = [&](const char* name, auto& value, const char* word, const char* help) {
    options.add_options()(name, po::value(&value)->value_name(word), help);
  };
  add("url", s.url, "URL",
      "where the server answers, http or https (default: the server started last on this machine)");
  add("api-key", s.api_key, "KEY", "what the server wants to be shown (default: the variable OPENAI_API_KEY)");
  add("api-key-file", s.key_file, "FILE", "its first line is the key; only its owner may read it");
  add("model", s.chat.model, "NAME", "model (default: the server's first)");
  add("system", s.chat.system, "TEXT", "system message");
  add("max-tokens", s.max_tokens, "N", "most tokens of an answer");
  add("temperature", s.temperature, "X", "default: the server's");
  add("wait", s.wait, "SECONDS", "longest wait for the server (default: 600 while it loads, 10 while nobody answers)");
  options.add_options()("no-history", po::bool_switch(&s.no_history), "keep none of what is typed");
  po::positional_options_description positional;
  positional.add("url", 1);
  std::string summary = fmt::format("{}\n\n{}", kSummary, ChatSession::help());
  summary.pop_back();  // its line break
  const auto given = read_options(argc, argv, summary, options, positional);
  if (!given) return false;
  if (given->count("max-tokens")) s.chat.parameters["max_tokens"] = s.max_tokens;
  if (given->count("temperature")) s.chat.parameters["temperature"] = s.temperature;
  if (given->count("wait")) s.patience = {.absent = s.wait, .loading = s.wait};
  return true;
}

std::string key_of(const Settings& s) {
  if (!s.api_key.empty()) return s.api_key;
  if (!s.key_file.empty()) return read_key_file(s.key_file).front();
  const char* key = std::getenv("OPENAI_API_KEY");
  return key ? key : "";
}

}  // namespace

int chat_command(int argc, char** argv) {
  Settings s;
  if (!parse(argc, argv, s)) return kExitOk;
  const Endpoint endpoint = parse_url(s.url.empty() ? url_of_last_server() : s.url, key_of(s));
  wait_for_server(endpoint, s.patience, [](std::string_view what) { fmt::print(stderr, "ktmpi chat: {}\n", what); });
  if (s.chat.model.empty()) s.chat.model = first_model(endpoint);

  const bool in_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  s.chat.progress = in_terminal && reports_progress(endpoint);
  if (in_terminal) fmt::print("{} at {}; /help lists the commands\n", s.chat.model, endpoint.url);
  ChatSession session(Conversation(endpoint, std::move(s.chat)), in_terminal);
  if (!in_terminal) return session.run(*plain_lines());
  const bool keeps_history = !s.no_history && !state_folder().empty();
  return session.run(*terminal_lines(
      {.history = keeps_history ? state_folder() / "history" : "", .complete = &ChatSession::complete}));
}

}  // namespace kt
