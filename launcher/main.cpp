// The program: finds the command, lets it run, and turns an error into one block on stderr and an exit code.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/config/run_config.h"
#include "runtime/config/words.h"

namespace kt {
namespace {

constexpr Command kCommands[] = {
    {"serve", serve_command, "answer requests over HTTP; the command when none is given", true},
    {"up", up_command, "start a job again after a fault and keep its port open meanwhile", true},
    {"chat", chat_command, "ask a running server, in a terminal"},
    {"convert", convert_command, "quantise a checkpoint's experts once, and check what was made"},
    {"tokenize", tokenize_command, "turn text into token ids and back, JSON Lines in and out"},
    {"template", template_command, "render conversations into prompts, JSON Lines in and out"},
    {"parse", parse_command, "split answers into reasoning, text and tool calls, JSON Lines in and out"},
    {"plan", plan_command, "say what a set-up would take and could give, without weights or hardware", true},
    {"simulate", simulate_command, "predict steps on described machines, as many as are asked for", true},
    {"placement", placement_command, "show how experts were used, and what each placement strategy makes of it"},
    {"bench", bench_command, "measure: kernels, step, scale, dispatch, serve"},
    {"completion", completion_command, "print what completes command lines in bash, zsh or fish"},
    {"man", man_command, "print the manual page"},
    {"doctor", doctor_command, "look at this machine, or at a job's, before the first start or when it is slow", true},
    {"version", version_command, "say what this program was built with and which kernels run here"},
};

// Under a launcher one rank of each node speaks of what all ranks of the node find wrong. The launchers' variables are
// read because this happens before MPI starts; SLURM_LOCALID is right only where PMIx, not mpirun, started the rank.
bool speaks_for_node() {
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");
  if (!local && std::getenv("PMIX_RANK")) local = std::getenv("SLURM_LOCALID");
  return !local || std::string_view(local) == "0";
}

void say(std::FILE* stream, std::string_view text) {
  if (speaks_for_node()) fmt::print(stream, "{}", text);
}

bool asks_for_help(std::string_view argument) { return argument == "--help" || argument == "-h"; }

std::string help() {
  std::string text =
      "ktmpi serves large mixture-of-experts language models on CPUs over MPI.\n\n"
      "Usage: mpirun -np N ktmpi [COMMAND] [OPTION ...]\n\n";
  for (const Command& command : kCommands) text += fmt::format("  {:<10}  {}\n", command.name, command.help);
  return text + "\nktmpi COMMAND --help says more about one of them.\n";
}

const Command& find_command(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Command& command : kCommands) {
    if (command.name == name) return command;
    names.push_back(command.name);
  }
  fail(kExitUsage, "unknown command '{}'; the nearest one is '{}'\nktmpi --help lists the commands", name,
       nearest(name, names));
}

// Prints serve's help if one of the arguments asks for it; the other commands print their own.
bool print_serve_help(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    if (!asks_for_help(argv[i])) continue;
    say(stdout, fit(run_config_help(), terminal_width()));
    return true;
  }
  return false;
}

int run(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (asks_for_help(first)) {
    say(stdout, fit(help(), terminal_width()));
    return kExitOk;
  }
  if (argc == 1)
    fail(kExitUsage,
         "model is required: --model DIR, or 'model: DIR' in the file of --config\n"
         "ktmpi --help lists the commands, ktmpi serve --help the options");
  const bool named = !first.empty() && first.front() != '-';
  const Command& command = find_command(first == "--version" ? "version" : named ? first : "serve");
  if (named) --argc, ++argv;
  if (command.run == serve_command && print_serve_help(argc, argv)) return kExitOk;
  return command.run(argc, argv);
}

}  // namespace

std::span<const Command> all_commands() { return kCommands; }

}  // namespace kt

int main(int argc, char** argv) {
  try {
    return kt::run(argc, argv);
  } catch (const kt::Error& error) {
    if (error.exit_code() != kt::kExitUsage || kt::speaks_for_node())
      kt::log_failure(error.what());
    else  // a launcher ends all ranks at the first exit, which has to be that of the one that speaks, even if it is
          // late
      std::this_thread::sleep_for(std::chrono::seconds(30));
    return error.exit_code();
  }
}
