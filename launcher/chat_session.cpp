#include "launcher/chat_session.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "launcher/chat_parameters.h"
#include "launcher/help_text.h"
#include "launcher/message_input.h"
#include "runtime/base/error.h"
#include "runtime/base/home.h"
#include "runtime/client/models.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kLargestFile = 4 << 20;

constexpr std::string_view kKeys =
    "Several lines: paste them, end a line with Alt-Enter, or put \"\"\" before the first and after the last.\n"
    "Ctrl-C ends an answer or clears the line; on an empty line, twice, it leaves, as Ctrl-D does.\n";

std::string trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == text.npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t") + 1 - begin));
}

std::string in_home(const std::string& path) {
  const char* home = std::getenv("HOME");
  return expand_home(path, home ? home : "");
}

// A line that begins with a path is none.
bool is_command(const std::string& line) {
  return line.starts_with('/') && line.find('/', 1) >= std::min(line.find(' '), line.size());
}

std::string read_text(const std::string& file) {
  std::error_code error;
  if (fs::is_directory(file, error)) fail(kExitUsage, "{}: is a folder", file);
  std::ifstream in(file, std::ios::binary);
  if (!in) fail(kExitUsage, "{}: cannot be read", file);
  std::string text(kLargestFile + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kLargestFile) fail(kExitUsage, "{}: has more than {} bytes", file, kLargestFile);
  try {
    if (text.find('\0') != text.npos) fail(kExitUsage, "{}: is no text", file);
    (void)Json(text).dump();
  } catch (const Json::type_error&) {
    fail(kExitUsage, "{}: is no text in UTF-8", file);
  }
  return text;
}

// Between fences that the text does not have itself.
std::string fenced(const std::string& file, std::string text) {
  std::string fence = "```";
  while (text.find(fence) != text.npos) fence += '`';
  if (!text.ends_with('\n')) text += '\n';
  return fmt::format("{}:\n{}\n{}{}\n\n", fs::path(file).filename().string(), fence, text, fence);
}

// Names in the folder that `path` names, as paths that begin as it does.
std::vector<std::string> files_that_begin_with(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == path.npos ? "" : path.substr(0, slash + 1);
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? "." : in_home(folder), error)) {
    std::string name = folder + entry.path().filename().string();
    if (name.starts_with(path)) files.push_back(entry.is_directory(error) ? name + '/' : name);
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

struct ChatSession::Command {
  std::string_view name, argument, help;
  void (ChatSession::*run)(const std::string& argument);
};

const ChatSession::Command ChatSession::kCommands[] = {
    {"/help", "", "list the commands", &ChatSession::print_help},
    {"/system", "[TEXT]", "show or replace the system message; - takes it away", &ChatSession::set_system},
    {"/set", "[NAME [VALUE]]", "show or set temperature, top_p, max_tokens, seed, ...; without VALUE the server's",
     &ChatSession::set_parameter},
    {"/model", "[NAME]", "show the server's models, or ask another one", &ChatSession::set_model},
    {"/load", "FILE", "put a text file before the next message", &ChatSession::load},
    {"/save", "FILE", "write the conversation as a request in JSON", &ChatSession::save},
    {"/clear", "", "forget the conversation, but not the system message", &ChatSession::clear},
    {"/retry", "", "ask the last question again", &ChatSession::retry},
    {"/stats", "", "tokens and speed of the last answer and of all", &ChatSession::print_stats},
    {"/quit", "", "leave", &ChatSession::quit},
};

int ChatSession::run(LineInput& lines) {
  while (const std::optional<Message> message = read_message(lines)) {
    if (!message->is_literal && is_command(message->text))
      obey(message->text);
    else if (!trimmed(message->text).empty())
      ask(message->text);
    if (over_) break;
  }
  return failed_ && !in_terminal_ ? kExitTryAgain : kExitOk;
}

Completions ChatSession::complete(std::string_view before_cursor) {
  Completions found;
  if (!before_cursor.starts_with('/')) return found;
  const size_t space = before_cursor.find(' ');
  const std::string_view command = before_cursor.substr(0, space);
  found.from = space == before_cursor.npos ? 0 : space + 1;
  const std::string word(before_cursor.substr(found.from));
  const auto offer = [&](std::string_view candidate) {
    if (candidate.starts_with(word)) found.words.emplace_back(candidate);
  };
  if (space == before_cursor.npos)
    for (const Command& known : kCommands) offer(known.name);
  else if (command == "/set")
    for (const std::string_view name : parameter_names()) offer(name);
  else if (command == "/load" || command == "/save")
    found.words = files_that_begin_with(word);
  return found;
}

void ChatSession::obey(const std::string& line) {
  const std::string name = trimmed(line.substr(0, line.find_first_of(" \t")));
  const std::string argument = trimmed(std::string_view(line).substr(name.size()));
  std::vector<std::string_view> names;
  for (const Command& command : kCommands) {
    names.push_back(command.name);
    if (command.name != name) continue;
    try {
      return (this->*command.run)(argument);
    } catch (const Error& error) {
      return complain(error.what());
    }
  }
  complain(fmt::format("unknown command {}; the nearest one is {}, all are {}", name, nearest(name, names),
                       fmt::join(names, " ")));
}

void ChatSession::ask(std::string question) {
  AnswerView view(in_terminal_);
  show(view, conversation_.ask(std::exchange(loaded_, {}) + std::move(question), view.listener()));
}

void ChatSession::complain(std::string_view what) {
  failed_ = true;
  fmt::print(stderr, "ktmpi chat: {}\n", what);
}

void ChatSession::show(AnswerView& view, const ChatAnswer& answer) {
  view.finish(answer.error.empty());
  if (!answer.error.empty()) complain(answer.error);
  if (answer.finish_reason == "length") fmt::print(stderr, "ktmpi chat: the answer was cut at its greatest length\n");
  last_ = answer;
  prompt_tokens_ += answer.prompt_tokens;
  completion_tokens_ += answer.completion_tokens;
  ++answers_;
}

// ---- the commands --------------------------------------------------------------------------------------------------

std::string ChatSession::help() {
  std::string text;
  for (const Command& command : kCommands)
    text += fmt::format("{:<22} {}\n", fmt::format("{} {}", command.name, command.argument), command.help);
  return text;
}

void ChatSession::print_help(const std::string&) { kt::print_help(help().append(kKeys)); }

void ChatSession::clear(const std::string&) {
  conversation_.clear();
  loaded_.clear();
}

void ChatSession::retry(const std::string&) {
  AnswerView view(in_terminal_);
  if (const auto answer = conversation_.retry(view.listener()))
    show(view, *answer);
  else
    complain("there is no question to ask again");
}

void ChatSession::set_system(const std::string& text) {
  if (!text.empty()) conversation_.set_system(text == "-" ? "" : text);
  const std::string& system = conversation_.settings().system;
  fmt::print("system message: {}\n", system.empty() ? "none" : system);
}

void ChatSession::set_parameter(const std::string& words) {
  const std::string name = words.substr(0, words.find(' ')),
                    value = trimmed(std::string_view(words).substr(name.size()));
  Json& parameters = conversation_.parameters();
  if (!name.empty()) check_parameter_name(name);
  if (!value.empty())
    parameters[name] = parameter_value(name, value);
  else
    parameters.erase(name);
  for (const auto& [known, set] : parameters.items()) fmt::print("{} {}\n", known, set.dump());
  if (parameters.empty()) fmt::print("all as the server sets them\n");
}

void ChatSession::set_model(const std::string& name) {
  if (!name.empty()) conversation_.set_model(name);
  const std::string& now = conversation_.settings().model;
  if (!name.empty()) return fmt::print("model: {}\n", now);
  for (const std::string& known : model_names(conversation_.endpoint()))
    fmt::print("{} {}\n", known == now ? '*' : ' ', known);
}

void ChatSession::load(const std::string& file) {
  if (file.empty()) return complain("/load needs the name of a file");
  const std::string text = read_text(in_home(file));
  loaded_ += fenced(file, text);
  fmt::print("{}: {} lines, before the next message\n", file, std::count(text.begin(), text.end(), '\n'));
}

void ChatSession::save(const std::string& file) {
  if (file.empty()) return complain("/save needs the name of a file");
  std::ofstream out(in_home(file));
  out << conversation_.to_json().dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  out.close();
  if (!out) return complain(fmt::format("{}: cannot be written", file));
  fmt::print("written to {}\n", file);
}

void ChatSession::print_stats(const std::string&) {
  if (answers_ == 0) return fmt::print("no answer yet\n");
  fmt::print("last answer: {} tokens after a prompt of {}, first after {:.2f} s, {:.1f} tokens/s{}\n",
             last_.completion_tokens, last_.prompt_tokens, last_.first_s, last_.tokens_per_s(),
             last_.cancelled ? " (ended early: not counted by the server)" : "");
  fmt::print("all {} answers: {} tokens, prompts {} tokens\n", answers_, completion_tokens_, prompt_tokens_);
}

}  // namespace kt
