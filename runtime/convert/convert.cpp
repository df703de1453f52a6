#include "runtime/convert/convert.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/base/log.h"
#include "runtime/base/progress.h"
#include "runtime/checkpoint/durable_file.h"
#include "runtime/checkpoint/fingerprint.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/quantize.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

void require_type(const Checkpoint& checkpoint, const ExpertRows& expert, std::string_view input_type) {
  for (const RowRun* run : {&expert.gate, &expert.up, &expert.down}) {
    const std::string stored = stored_as(checkpoint, run->name);
    if (stored == input_type) continue;
    if (stored == "nothing") fail(kExitModel, "{} is missing; is config.json of the same model?", run->name);
    fail(kExitUsage, "input-type {}: {} is stored as {}; use --input-type {}", input_type, run->name, stored, stored);
  }
}

// The manifest of what is done already: that of the folder, without layers whose files are not whole.
PackedManifest resumed(const fs::path& folder, const PackedManifest& plan) {
  PackedManifest manifest = read_manifest(folder).value_or(plan);
  if (!manifest.same_conversion(plan))
    fail(kExitUsage,
         "output {}: holds {} experts of another checkpoint or method (fingerprint {}, this one is {})\n"
         "  choose another folder, or remove that one",
         folder.string(), info(manifest.format).name, manifest.fingerprint, plan.fingerprint);
  std::erase_if(manifest.files, [&](const auto& done) {
    std::error_code error;
    const auto size = fs::file_size(layer_file(folder, done.first), error);
    return error || size != done.second.bytes;
  });
  return manifest;
}

void require_space(const fs::path& folder, size_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (!error && space.available < bytes)
    fail(kExitTryAgain, "output {}: {:.1f} GB are to be written, {:.1f} GB are free", folder.string(),
         static_cast<double>(bytes) / 1e9, static_cast<double>(space.available) / 1e9);
}

}  // namespace

std::string conversion_fingerprint(const ConversionInput& input) {
  return fingerprint(input.checkpoint, input.config_text);
}

PackedManifest plan_conversion(const ConversionInput& input, std::string_view input_type, Format format) {
  const ModelConfig& config = input.config;
  PackedManifest plan{.format = format,
                      .architecture = config.architecture,
                      .fingerprint = conversion_fingerprint(input),
                      .hidden = config.hidden,
                      .inter = config.moe.inter,
                      .slice = slice_width(config.moe.inter),
                      .experts = config.moe.experts};
  for (size_t i = 0; i < config.layers.size(); ++i) {
    if (config.layers[i].ffn != Ffn::moe) continue;
    plan.layers.push_back(static_cast<int>(i));
    for (int e = 0; e < config.moe.experts; ++e)
      require_type(input.checkpoint, expert_rows(input.checkpoint, input.arch, config, plan.layers.back(), e),
                   input_type);
  }
  if (plan.layers.empty()) fail(kExitUsage, "{}: the model has no layers with experts", config.architecture);
  return plan;
}

void convert_experts(const ConversionInput& input, const PackedManifest& plan, const fs::path& folder,
                     ThreadPool& pool) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(kExitUsage, "output {}: {}", folder.string(), error.message());
  const FolderLock lock(folder);
  PackedManifest manifest = resumed(folder, plan);
  if (!manifest.files.empty())
    log("{}: {} of {} layers are there already", folder.string(), manifest.files.size(), manifest.layers.size());

  const PackedShape shape = plan.shape();
  const size_t todo = (plan.layers.size() - manifest.files.size()) * plan.experts * shape.bytes();
  require_space(folder, todo);
  Progress progress("converting", "converted", todo);
  for (const int layer : plan.layers) {
    if (manifest.files.contains(layer)) continue;
    manifest.files[layer] = write_layer(folder, manifest, layer, pool, [&](int e, std::byte* out) {
      const ExpertRows rows = expert_rows(input.checkpoint, input.arch, input.config, layer, e);
      const FloatRows gate(input.checkpoint, input.config.quant, rows.gate);
      const FloatRows up(input.checkpoint, input.config.quant, rows.up);
      const FloatRows down(input.checkpoint, input.config.quant, rows.down);
      quantize_expert(gate, up, down, {0, plan.inter}, shape, out);
      for (const FloatRows* done : {&gate, &up, &down}) done->forget();
      progress.add(shape.bytes());
    });
    write_manifest(folder, manifest);
  }
  if (todo) progress.finish();
}

void check_packed(const fs::path& folder, const PackedManifest& manifest, ThreadPool& pool) {
  if (!manifest.complete())
    fail(kExitModel, "{}: {} of {} layers are converted; run the same `ktmpi convert` again to go on", folder.string(),
         manifest.files.size(), manifest.layers.size());
  Progress progress("checking", "checked",
                    manifest.layers.size() * static_cast<size_t>(manifest.experts) * manifest.shape().bytes());
  for (const int layer : manifest.layers) {
    const PackedLayer file(folder, manifest, layer);
    FirstError error;
    pool.run(manifest.experts, [&](int64_t e) {
      error.guard([&] {
        file.verify(static_cast<int>(e), 0, manifest.inter);
        progress.add(manifest.shape().bytes());
      });
    });
    error.rethrow();
  }
  progress.finish();
}

}  // namespace kt
