#include "runtime/rank/expert_source.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/checkpoint/fingerprint.h"
#include "runtime/weights/expert_tensors.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

std::optional<Format> format_named(std::string_view name) {
  for (size_t i = 0; i < std::size(kFormats); ++i)
    if (kFormats[i].name == name) return static_cast<Format>(i);
  return std::nullopt;  // auto
}

QuantSpec quant_of(Format format, QuantSpec quant) {
  quant.stored = format == Format::FP8       ? Stored::fp8_block
                 : format == Format::RAWINT4 ? Stored::int4_group
                                             : Stored::bf16;
  return quant;
}

std::string conversion(const std::string& input, std::string_view type, std::string output, Format format) {
  return fmt::format("  ktmpi convert --input-path {} --input-type {} --output {} --quant-method {}\n", input, type,
                     output, format == Format::AMXINT8 ? "int8" : "int4");
}

// The first MoE layer's first gate projection stands for all: loading checks the rest.
std::string stored_experts(const Checkpoint& checkpoint, const LoadedConfig& model) {
  const auto& layers = model.config.layers;
  const auto moe = std::find_if(layers.begin(), layers.end(), [](LayerSpec l) { return l.ffn == Ffn::moe; });
  if (moe == layers.end()) return "nothing";
  const int layer = static_cast<int>(moe - layers.begin());
  return stored_as(checkpoint, expert_rows(checkpoint, model.arch, model.config, layer, 0).gate.name);
}

void require_same(const std::string& path, const char* what, int64_t expected, int64_t found) {
  if (expected != found)
    fail(kExitUsage, "kt-weight-path {}: {} is {}, the model has {}: it belongs to another model", path, what, found,
         expected);
}

std::vector<int> moe_layers(const ModelConfig& config) {
  std::vector<int> layers;
  for (size_t i = 0; i < config.layers.size(); ++i)
    if (config.layers[i].ffn == Ffn::moe) layers.push_back(static_cast<int>(i));
  return layers;
}

void use_packed(ExpertFiles& files, const std::string& path, std::optional<Format> method, const LoadedConfig& model,
                const Checkpoint& checkpoint) {
  const PackedManifest& packed = *files.packed;
  const ModelConfig& config = model.config;
  if (method && *method != packed.format)
    fail(kExitUsage, "kt-method {}: {} was converted to {}\n  use kt-method auto or {}, or convert to another folder",
         info(*method).name, path, info(packed.format).name, info(packed.format).name);
  require_same(path, "hidden", config.hidden, packed.hidden);
  require_same(path, "inter", config.moe.inter, packed.inter);
  require_same(path, "experts", config.moe.experts, packed.experts);
  require_same(path, "slice", slice_width(config.moe.inter), packed.slice);
  if (packed.layers != moe_layers(config))
    fail(kExitUsage, "kt-weight-path {}: its {} layers with experts are not those of the model, which has {}", path,
         packed.layers.size(), moe_layers(config).size());
  if (!packed.complete())
    fail(kExitModel, "kt-weight-path {}: {} of {} layers are converted; run the same `ktmpi convert` again to go on",
         path, packed.files.size(), packed.layers.size());
  if (packed.fingerprint != fingerprint(checkpoint, model.raw.dump()))
    files.warning =
        fmt::format("kt-weight-path {}: converted from another checkpoint of this shape than the model's", path);
  files.source = {.format = packed.format, .packed_folder = path, .packed = &packed};
}

ExpertSource as_stored(const std::string& stored, const LoadedConfig& model, const Checkpoint& checkpoint) {
  const Format format = stored == "fp8" ? Format::FP8 : stored == "int4" ? Format::RAWINT4 : Format::BF16;
  return {.format = format, .quant = model.config.quant, .checkpoint = &checkpoint, .arch = &model.arch};
}

void use_checkpoint(ExpertFiles& files, const std::string& path, std::optional<Format> method,
                    const LoadedConfig& model, const Checkpoint& checkpoint) {
  const std::string stored = stored_experts(checkpoint, model);
  files.source = as_stored(stored, model, checkpoint);
  const Format format = files.source.format;
  if (method && info(*method).int8_activations) {
    const std::string output = fmt::format("{}-{}", path, info(*method).name);
    fail(kExitUsage,
         "kt-method {}: {} is a checkpoint with {} experts; convert them once, then name the new folder\n{}"
         "  ktmpi ... --kt-method {} --kt-weight-path {}",
         info(*method).name, path, stored, conversion(path, stored, output, *method), info(*method).name, output);
  }
  if (method && *method != format)
    fail(kExitUsage, "kt-method {}: {} has {} experts, which are served as {}\n  use kt-method auto or {}",
         info(*method).name, path, stored, info(format).name, info(format).name);
}

// hot-weights model, and the bank's experts are others.
void use_own_hot_experts(ExpertFiles& files, const RunConfig& run, const LoadedConfig& model,
                         const Checkpoint& checkpoint) {
  const std::string stored = stored_experts(checkpoint, model);
  constexpr std::string_view kTypes[] = {"bf16", "fp16", "fp32", "fp8", "int4"};
  if (std::find(std::begin(kTypes), std::end(kTypes), stored) == std::end(kTypes))
    fail(kExitUsage,
         "hot-weights model: {} has {} where its routed experts would be, expected bf16, fp16, fp32, fp8 or int4\n"
         "  use hot-weights bank, or name the folder of the whole checkpoint as model",
         run.model, stored);
  files.hot = as_stored(stored, model, checkpoint);
}

}  // namespace

Format planned_format(const RunConfig& run, const ModelConfig& config) {
  if (const std::optional<Format> method = format_named(run.kt_method)) return *method;
  std::error_code error;
  if (fs::is_directory(run.kt_weight_path, error))
    if (const std::optional<PackedManifest> packed = read_manifest(run.kt_weight_path)) return packed->format;
  return stored_format(config.quant.stored);
}

std::unique_ptr<ExpertFiles> find_experts(const RunConfig& run, const LoadedConfig& model,
                                          const Checkpoint& checkpoint) {
  auto files = std::make_unique<ExpertFiles>();
  const std::string& path = run.kt_weight_path;
  const std::optional<Format> method = format_named(run.kt_method);
  std::error_code error;
  const bool own = path == run.model || fs::equivalent(path, run.model, error);
  const bool hot_from_model = run.hot_weights == "model";

  if (run.load_format == "dummy") {
    if (!own)
      files->warning = fmt::format("kt-weight-path {} has no effect: load-format dummy generates experts", path);
    const Format format = method.value_or(stored_format(model.config.quant.stored));
    files->source = {.format = format,
                     .quant = quant_of(format, model.config.quant),
                     .checkpoint = &checkpoint,
                     .arch = &model.arch};
    if (const Format stored = stored_format(model.config.quant.stored); hot_from_model && stored != format)
      files->hot = {.format = stored, .quant = model.config.quant, .checkpoint = &checkpoint, .arch = &model.arch};
    return files;
  }
  if (!own) {
    if (!fs::is_directory(path, error)) fail(kExitModel, "kt-weight-path {}: there is no such folder", path);
    if (hot_from_model) use_own_hot_experts(*files, run, model, checkpoint);
    files->packed = read_manifest(path);
    if (files->packed) {
      use_packed(*files, path, method, model, checkpoint);
      return files;
    }
    if (converted_by_ktransformers(path)) {
      const std::string output = path + "-ktmpi";
      fail(
          kExitUsage,
          "kt-weight-path {}: converted by KTransformers, whose files are cut for one number of NUMA nodes and have no "
          "checksums; convert the model's experts again\n{}  ktmpi ... --kt-weight-path {}",
          path,
          conversion(run.model, stored_experts(checkpoint, model), output,
                     method == Format::AMXINT8 ? Format::AMXINT8 : Format::AMXINT4),
          output);
    }
    files->config.emplace(load_model_config(path));
    const ModelConfig& config = files->config->config;
    require_same(path, "hidden_size", model.config.hidden, config.hidden);
    require_same(path, "moe_intermediate_size", model.config.moe.inter, config.moe.inter);
    require_same(path, "number of experts", model.config.moe.experts, config.moe.experts);
    if (moe_layers(config) != moe_layers(model.config))
      fail(kExitUsage, "kt-weight-path {}: its layers with experts are not those of the model", path);
    files->checkpoint = open_checkpoint(path);
  }
  use_checkpoint(*files, path, method, own ? model : *files->config, own ? checkpoint : *files->checkpoint);
  return files;
}

}  // namespace kt
