// `ktmpi chat`: asks a running server, line by line.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/commands.h"
#include "launcher/line_input.h"
#include "launcher/replay.h"
#include "runtime/base/error.h"
#include "runtime/client/conversation.h"
#include "runtime/client/models.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kSummary =
    "Usage: ktmpi chat [--url URL] [OPTION ...]\n\n"
    "Asks a running server. Each line is a question; a line that begins with / is a command, /help lists them.\n"
    "Ctrl-C ends an answer, and at the prompt the chat. Where stdin is no terminal, each of its lines is a question,\n"
    "only answers are printed, and the exit code is 75 if one of them failed.";

constexpr std::string_view kHelp =
    "/clear      forget the conversation\n"
    "/retry      ask the last question again\n"
    "/stats      tokens and speed of the last answer and of all\n"
    "/save FILE  write the conversation as a request in JSON\n"
    "/quit       leave, as Ctrl-D does\n";

constexpr std::string_view kCommands[] = {"/help", "/clear", "/retry", "/stats", "/save", "/quit"};

// One chat on this terminal, or one list of questions.
class Chat {
 public:
  Chat(Conversation conversation, bool interactive)
      : conversation_(std::move(conversation)),
        interactive_(interactive),
        colors_(interactive && !std::getenv("NO_COLOR")) {}

  int run(LineInput& lines) {
    while (const std::optional<std::string> line = lines.read()) {
      if (line->find_first_not_of(" \t") == std::string::npos) continue;
      if (line->front() != '/')
        show(conversation_.ask(*line, printer()));
      else if (!command(*line))
        break;
    }
    return failed_ && !interactive_ ? kExitTryAgain : kExitOk;
  }

 private:
  // False: the chat is over.
  bool command(const std::string& line) {
    const std::string word = line.substr(0, line.find(' '));
    const std::string argument = line.size() > word.size() ? line.substr(word.size() + 1) : "";
    if (word == "/quit") return false;
    if (word == "/help") {
      fmt::print("{}", kHelp);
    } else if (word == "/clear") {
      conversation_.clear();
    } else if (word == "/stats") {
      print_stats();
    } else if (word == "/save") {
      save(argument);
    } else if (word == "/retry") {
      if (const auto answer = conversation_.retry(printer()))
        show(*answer);
      else
        complain("there is no question to ask again");
    } else {
      complain(fmt::format("unknown command {}; the nearest one is {}", word,
                           nearest(word, std::vector<std::string_view>(std::begin(kCommands), std::end(kCommands)))));
    }
    return true;
  }

  void complain(std::string_view what) {
    failed_ = true;
    fmt::print(stderr, "ktmpi chat: {}\n", what);
  }

  // Prints pieces as they come, reasoning dimmed.
  Conversation::OnPiece printer() {
    dimmed_ = printed_ = false;
    return [this](std::string_view piece, bool is_reasoning) {
      if (is_reasoning && !interactive_) return;
      if (is_reasoning != dimmed_) {
        if (!is_reasoning) fmt::print("\n\n");
        if (colors_) fmt::print("{}", is_reasoning ? "\x1b[2m" : "\x1b[0m");
        dimmed_ = is_reasoning;
      }
      fmt::print("{}", piece);
      std::fflush(stdout);
      printed_ = true;
    };
  }

  void show(const ChatAnswer& answer) {
    if (dimmed_ && colors_) fmt::print("\x1b[0m");
    if (printed_ || answer.error.empty()) fmt::print("\n");
    std::fflush(stdout);
    if (!answer.error.empty()) complain(answer.error);
    if (answer.finish_reason == "length") fmt::print(stderr, "ktmpi chat: the answer was cut at its greatest length\n");
    last_ = answer;
    prompt_tokens_ += answer.prompt_tokens;
    completion_tokens_ += answer.completion_tokens;
    ++answers_;
  }

  void print_stats() const {
    if (answers_ == 0) {
      fmt::print("no answer yet\n");
      return;
    }
    fmt::print("last answer: {} tokens after a prompt of {}, first after {:.2f} s, {:.1f} tokens/s{}\n",
               last_.completion_tokens, last_.prompt_tokens, last_.first_s, last_.tokens_per_s(),
               last_.cancelled ? " (ended early: not counted by the server)" : "");
    fmt::print("all {} answers: {} tokens, prompts {} tokens\n", answers_, completion_tokens_, prompt_tokens_);
  }

  void save(const std::string& file) {
    if (file.empty()) return complain("/save needs the name of a file");
    std::ofstream out(file);
    out << conversation_.to_json().dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
    out.close();
    if (!out) return complain(fmt::format("{}: cannot be written", file));
    fmt::print("written to {}\n", file);
  }

  Conversation conversation_;
  bool interactive_, colors_;
  bool failed_ = false, dimmed_ = false, printed_ = false;
  ChatAnswer last_;
  int answers_ = 0;
  long prompt_tokens_ = 0, completion_tokens_ = 0;
};

}  // namespace

int chat_command(int argc, char** argv) {
  std::string url, api_key;
  ChatSettings settings;
  int max_tokens = 0;
  double temperature = 0;
  po::options_description options;
  options.add_options()("url", po::value(&url)->value_name("URL")->default_value("http://127.0.0.1:30000"),
                        "where the server answers");
  options.add_options()("api-key", po::value(&api_key)->value_name("KEY"), "what the server wants to be shown");
  options.add_options()("model", po::value(&settings.model)->value_name("NAME"), "model (default: the server's first)");
  options.add_options()("system", po::value(&settings.system)->value_name("TEXT"), "system message");
  options.add_options()("max-tokens", po::value(&max_tokens)->value_name("N"), "most tokens of an answer");
  options.add_options()("temperature", po::value(&temperature)->value_name("X"), "default: the server's");
  const auto given = read_options(argc, argv, kSummary, options);
  if (!given) return kExitOk;
  if (given->count("max-tokens")) settings.max_tokens = max_tokens;
  if (given->count("temperature")) settings.temperature = temperature;

  const Endpoint endpoint = parse_url(url, api_key);
  if (settings.model.empty()) settings.model = first_model(endpoint);
  const bool interactive = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  if (interactive) fmt::print("{} at {}; /help lists the commands\n", settings.model, url);
  const std::unique_ptr<LineInput> lines = interactive ? terminal_lines("> ") : plain_lines();
  return Chat(Conversation(endpoint, std::move(settings)), interactive).run(*lines);
}

}  // namespace kt
