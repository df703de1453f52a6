#pragma once

#include <string>
#include <string_view>

#include "launcher/answer_view.h"
#include "launcher/line_input.h"
#include "runtime/client/conversation.h"

namespace kt {

// One chat in a terminal, or one list of questions: its commands, and what it prints.
class ChatSession {
 public:
  ChatSession(Conversation conversation, bool in_terminal)
      : conversation_(std::move(conversation)), in_terminal_(in_terminal) {}

  int run(LineInput& lines);  // the exit code

  static Completions complete(std::string_view before_cursor);
  static std::string help();

 private:
  struct Command;
  static const Command kCommands[];

  void obey(const std::string& line);
  void ask(std::string question);
  void complain(std::string_view what);
  void show(AnswerView& view, const ChatAnswer& answer);

  void print_help(const std::string&);
  void print_stats(const std::string&);
  void clear(const std::string&);
  void retry(const std::string&);
  void quit(const std::string&) { over_ = true; }
  void set_system(const std::string& text);
  void set_parameter(const std::string& words);
  void set_model(const std::string& name);
  void load(const std::string& file);
  void save(const std::string& file);

  Conversation conversation_;
  const bool in_terminal_;
  bool failed_ = false, over_ = false;
  std::string loaded_;  // files that the next message begins with
  ChatAnswer last_;
  int answers_ = 0;
  long prompt_tokens_ = 0, completion_tokens_ = 0;
};

}  // namespace kt
