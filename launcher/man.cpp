// `ktmpi man`: the manual page, in the language of man(7); commands and options come from their tables.

#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "launcher/commands.h"
#include "launcher/completion.h"
#include "launcher/options_markdown.h"
#include "launcher/replay.h"
#include "launcher/serve_options.h"
#include "runtime/base/error.h"

namespace kt {
namespace {

constexpr std::string_view kSummary =
    "Usage: ktmpi man > ktmpi.1\n       ktmpi man --markdown\n\n"
    "Prints the manual page, which `man -l ktmpi.1` shows.";

struct Entry {
  std::string_view name, text;
};

constexpr Entry kExitCodes[] = {
    {"0", "stopped or drained"},
    {"2", "a wrong option, configuration or number of ranks, or memory that is not there"},
    {"64", "the model cannot be read"},
    {"69", "the port is taken"},
    {"70", "another rank was lost"},
    {"71", "no step finished within step-timeout-s"},
    {"75", "out of a resource that may come back"},
    {"77", "a fault of a device"},
};

constexpr Entry kEnvironment[] = {
    {"KTMPI_ISA", "table of kernels, one of those that ktmpi version names; by default the best one"},
    {"KTMPI_NODE", "machine that a rank counts itself to, for ranks of one machine that cannot share memory"},
    {"KTMPI_UP", "set by ktmpi up for its job: where rank 0 asks for the port"},
    {"SGLANG_EXPERT_DISTRIBUTION_RECORDER_DIR", "folder of recordings of experts' use; by default /tmp"},
    {"NO_COLOR", "no bold, dim or reverse text in ktmpi chat"},
    {"OPENAI_API_KEY", "key of ktmpi chat where none is given"},
    {"http_proxy, https_proxy, no_proxy", "proxies of ktmpi chat and ktmpi bench serve"},
    {"SSL_CERT_FILE", "whose certificates they trust with https, instead of the system's"},
    {"XDG_STATE_HOME", "where running servers and ktmpi chat's history are noted, in ktmpi; by default ~/.local/state"},
    {"HF_HUB_CACHE, HF_HOME", "where Hugging Face's tools keep models; by default ~/.cache/huggingface/hub"},
};

constexpr std::string_view kDescription =
    "ktmpi serves large mixture-of-experts language models over HTTP with the APIs of OpenAI, Anthropic and SGLang. "
    "Its "
    "MPI ranks share one process, one machine or a cluster. Expert ranks keep the routed experts in their memory and "
    "compute them there; trunk ranks compute all else; rank 0 schedules requests and answers them.";

// As text of a line: no character is a command or becomes another one.
std::string plain(std::string_view text) {
  std::string line = replaced(replaced(std::string(text), "\\", "\\e"), "-", "\\-");
  return line.starts_with('.') || line.starts_with('\'') ? "\\&" + line : line;
}

void section(std::string_view title) { fmt::print(".SH {}\n", title); }
void entry(std::string_view name, std::string_view text) {
  fmt::print(".TP\n\\fB{}\\fR\n{}\n", plain(name), plain(text));
}

void print_option(const WrittenOption& option) {
  std::string names;
  for (std::string_view alias : option.aliases) names += fmt::format(", \\fB{}\\fR", plain(fmt::format("--{}", alias)));
  const std::string value = option.value.empty() ? "" : fmt::format(" \\fI{}\\fR", plain(option.value));
  fmt::print(".TP\n\\fB{}\\fR{}{}\n{}\n", plain(fmt::format("--{}", option.name)), names, value, plain(option.help));
  if (!option.words.empty()) fmt::print(".br\nOne of: {}\n", plain(fmt::format("{}", fmt::join(option.words, ", "))));
}

void print_page() {
  fmt::print(".TH KTMPI 1 \"\" \"ktmpi {}\" \"User Commands\"\n", KTMPI_VERSION);
  section("NAME");
  fmt::print("ktmpi \\- serve large mixture\\-of\\-experts language models over MPI\n");
  section("SYNOPSIS");
  fmt::print(
      "\\fBmpirun \\-np\\fR \\fIN\\fR \\fBktmpi\\fR [\\fICOMMAND\\fR] [\\fB\\-\\-config\\fR \\fIFILE\\fR] "
      "[\\fIOPTION\\fR ...]\n");
  section("DESCRIPTION");
  fmt::print("{}\n", plain(kDescription));
  section("COMMANDS");
  for (const Command& command : all_commands()) entry(command.name, command.help);
  for (const Command& benchmark : all_benchmarks()) entry(fmt::format("bench {}", benchmark.name), benchmark.help);
  fmt::print(".PP\n\\fBktmpi\\fR \\fICOMMAND\\fR \\fB\\-\\-help\\fR lists the options of a command.\n");
  section("OPTIONS");
  fmt::print("Of {}; keys of the file of \\-\\-config have the same names.\n",
             plain(join(with_serves_options(), ", ")));
  for (const auto& [group, title] : all_groups()) {
    fmt::print(".SS {}\n", title);
    for (const WrittenOption& option : written_options())
      if (option.group == group) print_option(option);
  }
  section("EXIT STATUS");
  for (const auto& [name, text] : kExitCodes) entry(name, text);
  fmt::print(
      ".PP\nLaunchers add their own: 137 for a rank that was killed, 139 for one that crashed, 205 for a lost "
      "machine.\n");
  section("ENVIRONMENT");
  for (const auto& [name, text] : kEnvironment) entry(name, text);
  section("SEE ALSO");
  fmt::print("\\fBmpirun\\fR(1), \\fBsbatch\\fR(1)\n");
}

}  // namespace

int man_command(int argc, char** argv) {
  bool markdown = false;
  boost::program_options::options_description options;
  options.add_options()("markdown", boost::program_options::bool_switch(&markdown),
                        "print the reference of serve's options, docs/options.md");
  if (!read_options(argc, argv, kSummary, options)) return kExitOk;
  if (markdown)
    fmt::print("{}", options_markdown());
  else
    print_page();
  return kExitOk;
}

}  // namespace kt
