#include "launcher/serve_options.h"

#include "runtime/config/words.h"
#include "runtime/text/answers/reasoning_parser.h"
#include "runtime/text/answers/tool_parser.h"

namespace kt {
namespace {

std::vector<std::string_view> names(auto formats) {
  std::vector<std::string_view> result = {"none"};
  for (const auto& format : formats) result.push_back(format.name);
  return result;
}

std::vector<std::string_view> words_of(const Option& option) {
  if (option.name == "tool-call-parser") return names(tool_formats());
  if (option.name == "reasoning-parser") return names(reasoning_formats());
  return split(option.words, '|');
}

}  // namespace

std::vector<WrittenOption> written_options() {
  std::vector<WrittenOption> result = {
      {"config", {}, Group::model, "FILE", "YAML with these options; the command line wins over it", {}}};
  for (const Option& o : all_options())
    if (o.status == Status::active)
      result.push_back({o.name, split(o.aliases, '|'), o.group, o.value, o.help, words_of(o)});
  return result;
}

}  // namespace kt
