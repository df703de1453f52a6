// `ktmpi convert`: the routed experts of a checkpoint as integers, in ktmpi's packed folders.

#include <algorithm>
#include <optional>

#include "launcher/commands.h"
#include "launcher/lines.h"
#include "launcher/replay.h"
#include "runtime/arch/load_config.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/comm/machine.h"
#include "runtime/config/hub_cache.h"
#include "runtime/convert/convert.h"

namespace kt {
namespace {

namespace po = boost::program_options;

constexpr std::string_view kSummary =
    "Usage: ktmpi convert --input-path DIR --input-type TYPE --output DIR [--quant-method int4|int8] [--check]\n"
    "       ktmpi convert --check --output DIR [--input-path DIR]\n\n"
    "Quantises the routed experts of a checkpoint once, for --kt-method AMXINT4 or AMXINT8 with\n"
    "--kt-weight-path OUTPUT. The same command goes on where a killed one stopped. --check verifies every\n"
    "checksum and, with --input-path, says how far each layer is from its source.";

struct Options {
  std::string input, type, output, method;
  int threads = 0, pools = 0;
  bool no_merge = false, check = false, json = false;
};

bool parse(int argc, char** argv, Options& o) {
  po::options_description d;
  d.add_options()("input-path", po::value(&o.input)->value_name("DIR"), "folder of the checkpoint");
  d.add_options()("input-type", po::value(&o.type)->value_name("TYPE"),
                  "how its experts are stored: fp8, bf16, fp16, fp32 or int4");
  d.add_options()("output", po::value(&o.output)->value_name("DIR")->required(), "folder of the packed experts");
  d.add_options()("quant-method", po::value(&o.method)->value_name("METHOD")->default_value("int4"),
                  "int4 (AMXINT4) or int8 (AMXINT8)");
  d.add_options()("cpuinfer-threads", po::value(&o.threads)->value_name("N"), "threads (default: all cores)");
  d.add_options()("threadpool-count", po::value(&o.pools)->value_name("P"),
                  "accepted; the files serve any number of expert ranks");
  d.add_options()("no-merge-safetensor", po::bool_switch(&o.no_merge), "accepted; there is always one file per layer");
  d.add_options()("check", po::bool_switch(&o.check),
                  "verify the output, after converting it if there is an input-type");
  d.add_options()("json", po::bool_switch(&o.json), "what --check finds as JSON Lines also on a terminal");
  return read_options(argc, argv, kSummary, d).has_value();
}

Format format_of(const std::string& method) {
  if (method == "int4") return Format::AMXINT4;
  if (method == "int8") return Format::AMXINT8;
  fail(kExitUsage, "quant-method: expected int4 or int8, found '{}'", method);
}

void refuse_bad(const Options& o) {
  constexpr std::string_view kTypes[] = {"fp8", "bf16", "fp16", "fp32", "int4"};
  if (!o.type.empty() && std::find(std::begin(kTypes), std::end(kTypes), o.type) == std::end(kTypes))
    fail(kExitUsage, "input-type: expected fp8, bf16, fp16, fp32 or int4, found '{}'", o.type);
  if (!o.check && (o.input.empty() || o.type.empty()))
    fail(kExitUsage,
         "--input-path and --input-type are required; without them only --check can run\n"
         "ktmpi convert --help lists the options");
  if (!o.type.empty() && o.input.empty()) fail(kExitUsage, "--input-type needs --input-path");
  std::error_code error;
  if (!o.input.empty() && std::filesystem::equivalent(o.input, o.output, error))
    fail(kExitUsage, "output {}: expected another folder than that of the checkpoint", o.output);
}

int thread_count(int asked) {
  const int cores = std::max(1, core_count(read_machine(), allowed_cpus()));
  if (asked < 0) fail(kExitUsage, "cpuinfer-threads: expected a number from 1, found {}", asked);
  if (asked > cores) log_warning("cpuinfer-threads {}: this machine has {} cores, which are used", asked, cores);
  return asked == 0 ? cores : std::min(asked, cores);
}

const Ops& kernels_for_check() {
  try {
    return choose_ops();
  } catch (const std::runtime_error& e) {
    fail(kExitUsage, "{}", e.what());
  }
}

// The checkpoint, open.
struct Source {
  LoadedConfig config;
  std::unique_ptr<Checkpoint> checkpoint;

  explicit Source(const std::string& folder) : config(load_model_config(folder)), checkpoint(open_checkpoint(folder)) {}
  ConversionInput input() const { return {*checkpoint, config.arch, config.config, config.raw.dump()}; }
};

void compare(const Options& o, const Source& source, const PackedManifest& manifest, Device& device, bool table) {
  const ConversionInput input = source.input();
  const std::string found = conversion_fingerprint(input);
  if (found != manifest.fingerprint)
    fail(kExitUsage, "output {}: converted from a checkpoint with fingerprint {}, {} has {}", o.output,
         manifest.fingerprint, o.input, found);
  if (table) fmt::print("relative errors\n");
  Lines lines({{.member = "layer", .width = 5},
               {.member = "weights_error", .title = "of the weights", .digits = 4},
               {.member = "output_error", .title = "of an expert's output", .digits = 4}},
              table);
  for (const int layer : manifest.layers) {
    const LayerDeviation d = compare_layer(input, o.output, manifest, layer, device);
    lines.print({{"layer", layer}, {"weights_error", d.weights}, {"output_error", d.output}});
  }
}

void check(const Options& o, const std::optional<Source>& source, Device& device) {
  const std::optional<PackedManifest> manifest = read_manifest(o.output);
  if (!manifest) fail(kExitModel, "output {}: there is no manifest.json; was it written by `ktmpi convert`?", o.output);
  check_packed(o.output, *manifest, device.host_threads());
  const bool table = !o.json && prints_to_terminal();
  if (source) compare(o, *source, *manifest, device, table);
  const auto method = info(manifest->format).name;
  if (table)
    fmt::print("{}: {} layers of {} {} experts are whole\n", o.output, manifest->layers.size(), manifest->experts,
               method);
  else
    Lines({}, false).print({{"output", o.output},
                            {"layers", manifest->layers.size()},
                            {"experts", manifest->experts},
                            {"method", method},
                            {"whole", true}});
}

}  // namespace

int convert_command(int argc, char** argv) {
  Options o;
  if (!parse(argc, argv, o)) return kExitOk;
  refuse_bad(o);
  const Format format = format_of(o.method);
  set_log_name(-1, "convert");
  if (o.pools) log_warning("threadpool-count has no effect: every rank takes its columns of the same files");
  if (o.no_merge) log_warning("no-merge-safetensor has no effect: there is always one file per layer");

  ThreadPool pool(thread_count(o.threads));
  std::optional<Source> source;
  if (!o.input.empty()) source.emplace(model_folder("input-path", o.input));
  if (!o.type.empty()) {
    const ConversionInput input = source->input();
    convert_experts(input, plan_conversion(input, o.type, format), o.output, pool);
    log("{}: done; serve with --kt-method {} --kt-weight-path {}", o.output, info(format).name, o.output);
  }
  if (o.check) check(o, source, *make_cpu_device(kernels_for_check(), pool, -1));
  return kExitOk;
}

}  // namespace kt
