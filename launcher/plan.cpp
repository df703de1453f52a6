// `ktmpi plan`: what a set-up would take and could give, without weights and without the hardware.

#include <boost/program_options.hpp>
#include <nlohmann/json.hpp>

#include "launcher/commands.h"
#include "launcher/help_text.h"
#include "launcher/own_options.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/config/hub_cache.h"
#include "runtime/plan/plan.h"
#include "runtime/rank/expert_source.h"

namespace kt {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kHelp =
    "Usage: ktmpi plan --config FILE [--hardware FILE] [--world N] [--json] [OPTION ...]\n\n"
    "Says for each rank what memory it takes and for what, which files are read, which numbers of ranks are\n"
    "valid, how fast the hardware could be at best, and what to change when something does not fit. Needs the\n"
    "model's config.json and neither its weights nor the hardware.\n\n"
    "  --hardware FILE  YAML that describes the machines, as in configs/hardware (default: this machine)\n"
    "  --world N        number of ranks (default: trunk ranks and expert ranks)\n"
    "  --json           one JSON object instead of tables\n\n"
    "All options of serve are taken, also those that are not built yet.\n"
    "Exit codes: 0 everything fits, 2 something does not.\n";

struct Options {
  std::string hardware;
  std::optional<int> world;
  bool json = false, help = false;
  std::vector<std::string> rest;  // options of serve
};

Options read_command(int argc, char** argv) {
  Options o;
  int world = 0;
  po::options_description known;
  known.add_options()("hardware", po::value(&o.hardware))("world", po::value(&world));
  known.add_options()("json", po::bool_switch(&o.json))("help,h", po::bool_switch(&o.help));
  po::variables_map values;
  o.rest = take_own_options(argc, argv, "plan", known, values);
  if (values.count("world")) o.world = world;
  if (o.world && *o.world < 1) fail(kExitUsage, "--world: expected a number from 1, found {}", *o.world);
  return o;
}

}  // namespace

int plan_command(int argc, char** argv) {
  const Options o = read_command(argc, argv);
  if (o.help) {
    print_help(kHelp);
    return kExitOk;
  }
  const Hardware hardware = o.hardware.empty() ? this_machine() : read_hardware(o.hardware);
  const RunConfig run = with_model_folders(parse_run_config(o.rest, Intent::plan));
  for (const std::string& warning : run.warnings) log_warning("{}", warning);
  const LoadedConfig model = load_model_config(run.model);
  const ClusterPlan plan = plan_cluster(run, model, planned_format(run, model.config), hardware, o.world);
  if (o.json)
    fmt::print("{}\n", to_json(plan).dump());
  else
    fmt::print("{}", to_text(plan));
  return plan.shortages.empty() ? kExitOk : kExitUsage;
}

}  // namespace kt
