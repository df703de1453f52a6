#include "runtime/weights/packing.h"

#include <algorithm>
#include <cstring>

#include "kernels/format/bf16.h"
#include "kernels/format/fp8.h"
#include "kernels/format/rawint4.h"
#include "runtime/base/error.h"
#include "runtime/base/first_error.h"
#include "runtime/base/log.h"
#include "runtime/base/progress.h"
#include "runtime/weights/expert_tensors.h"
#include "runtime/weights/floats.h"
#include "runtime/weights/quantize.h"

namespace kt {
namespace {

constexpr int kPanelsPerTask = 64;

void require(StoredType found, StoredType expected, const std::string& name) {
  if (found != expected) fail(kExitModel, "{}: expected {}, found {}", name, name_of(expected), name_of(found));
}

// Linear layers that FP8 releases leave in BF16.
bool kept_in_bf16(const std::string& name) {
  for (const char* part : {"mlp.gate.", "shared_expert_gate", "in_proj_ba", "in_proj_a.", "in_proj_b.", "weights_proj",
                           "lm_head", "embed_tokens"})
    if (name.find(part) != std::string::npos) return true;
  return false;
}

// Small matrices that decide much, and those that the trunk does not multiply by rows that are quantised.
bool kept_as_stored(const std::string& name) {
  for (const char* part :
       {"mlp.gate.", "shared_expert_gate", "in_proj_ba", "in_proj_a.", "in_proj_b.", "indexer.", "q_b_proj"})
    if (name.find(part) != std::string::npos) return true;
  return false;
}

// Its errors are those of the logits.
bool is_head(const std::string& name) {
  return name.ends_with("lm_head.weight") || name.ends_with("embed_tokens.weight");
}

std::vector<int64_t> divided(const std::vector<int64_t>& shape, int64_t by) { return {shape[0], shape[1] / by}; }

}  // namespace

Format Packing::format_of(const std::string& name) const {
  const Format stored = stored_format_of(name);
  if (!method_ || stored == Format::RAWINT4 || kept_as_stored(name)) return stored;
  return is_head(name) && *method_ == Format::AMXINT4 ? Format::AMXINT8 : *method_;
}

Format Packing::stored_format_of(const std::string& name) const {
  if (checkpoint_.find(name)) return checkpoint_.find(name + "_scale_inv") ? Format::FP8 : Format::BF16;
  if (checkpoint_.find(name + "_packed")) return Format::RAWINT4;
  if (!checkpoint_.names().empty()) return Format::BF16;  // missing: the check says so
  if (quant_.stored == Stored::fp8_block && !kept_in_bf16(name)) return Format::FP8;
  if (quant_.stored == Stored::int4_group && name.find(".mlp.experts.") != std::string::npos) return Format::RAWINT4;
  return Format::BF16;
}

PackedMatrix Packing::planned(const std::vector<RowRun>& rows, int64_t n, int64_t first_column, int columns,
                              int slice) const {
  const RowRun& first = rows.front();
  PackedMatrix m{.format = format_of(first.name), .n = static_cast<int>(n), .k = columns};
  m.group_tiles = group_tiles(m.format, quant_, slice);
  if (slice % kTileK || first_column % (slice ? slice : kTileK))
    fail(kExitModel, "{}: columns from {} in slices of {}: expected whole slices of a multiple of {}", first.name,
         first_column, slice, kTileK);
  for (const RowRun& run : rows)
    if (format_of(run.name) != m.format)
      fail(kExitModel, "{} is stored as {}, {} as {}: expected one format for both", first.name, info(m.format).name,
           run.name, info(format_of(run.name)).name);
  return m;
}

// The rows of a panel of FP8 share a scale, so no panel may lie in two blocks or, unless it has what is left of a run
// to itself, in two runs.
void Packing::require_one_scale(const RowRun& run, bool closes_its_panel) const {
  const int64_t matrix_rows = run.shape[run.shape.size() - 2];
  if (run.first % matrix_rows % kPanel || (run.count % kPanel && !closes_its_panel))
    fail(kExitModel, "{}: rows {} to {} are not whole panels of 16, which FP8 blocks need", run.name, run.first,
         run.first + run.count);
}

void Packing::add(PackedMatrix* target, std::vector<RowRun> rows, int64_t first_column, int columns, int slice) {
  int64_t n = 0;
  for (const RowRun& r : rows) n += r.count;
  *target = planned(rows, n, first_column, columns, slice);
  if (target->format == Format::FP8)
    for (const RowRun& run : rows) require_one_scale(run, &run == &rows.back());
  const Format stored = stored_format_of(rows.front().name);
  stored_ += stored_bytes(stored, n, columns);
  elements_ += static_cast<size_t>(n * columns);
  jobs_.push_back({target, stored, std::move(rows), first_column, columns, bytes_, 0, 1});
  bytes_ += target->bytes();
}

void Packing::add_pair(PackedMatrix* target, RowRun gate, RowRun up) {
  const int columns = static_cast<int>(gate.shape.back());
  *target = planned({gate, up}, 2 * round_up(gate.count, 2 * kPanel), 0, columns, 0);
  if (target->format == Format::FP8)
    for (const RowRun* run : {&gate, &up}) require_one_scale(*run, true);
  const Format stored = stored_format_of(gate.name);
  stored_ += stored_bytes(stored, gate.count + up.count, columns);
  elements_ += static_cast<size_t>((gate.count + up.count) * columns);
  jobs_.push_back({target, stored, {std::move(gate)}, 0, columns, bytes_, 0, 2});
  jobs_.push_back({target, stored, {std::move(up)}, 0, columns, bytes_, 1, 2});
  bytes_ += target->bytes();
}

// Asks for no row of each tensor: its name, shape and type are checked all the same.
void Packing::check() const {
  std::vector<std::byte> scratch;
  const bool generated = checkpoint_.names().empty();
  for (const Job& job : jobs_)
    for (const RowRun& run : job.rows) {
      auto type = [&](const std::string& name, const std::vector<int64_t>& shape) {
        return checkpoint_.rows(name, shape, 0, 0, scratch).type;
      };
      if (generated || job.stored == Format::BF16) {
        require_floats(type(run.name, run.shape), run.name);
      } else if (job.stored == Format::FP8) {
        require(type(run.name, run.shape), StoredType::f8_e4m3, run.name);
        require_floats(type(run.name + "_scale_inv", scale_shape(run.shape, quant_)), run.name + "_scale_inv");
      } else {
        if (run.shape.size() != 2 || run.shape[1] % kTileK)
          fail(kExitModel, "{}_packed: expected a matrix of a multiple of {} columns, found {}", run.name, kTileK,
               run.shape.back());
        require(type(run.name + "_packed", divided(run.shape, 8)), StoredType::i32, run.name + "_packed");
        require(type(run.name + "_scale", divided(run.shape, 32)), StoredType::bf16, run.name + "_scale");
      }
    }
}

bool Packing::rounds() const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const Job& job) {
    const StoredTensor* stored = checkpoint_.find(job.rows.front().name);
    return job.target->format == Format::BF16 && stored && stored->type != StoredType::bf16;
  });
}

void Packing::add(DeviceFloats* target, std::vector<float> values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(float));
  vectors_.push_back({target, std::move(values), vector_bytes_});
  vector_bytes_ += static_cast<size_t>(round_up(bytes, 64));
}

// In order of their bytes. The halves of a pair alternate, so what makes their panels of one run comes together.
std::vector<Packing::Task> Packing::tasks() const {
  std::vector<Task> tasks;
  for (size_t first = 0, last; first < jobs_.size(); first = last) {
    last = first + static_cast<size_t>(jobs_[first].panel_step);
    const PackedMatrix& m = *jobs_[first].target;
    // Every panel of the target is written: padding has a form of its own in some formats.
    const int step = jobs_[first].panel_step, panels = m.panels() / step;
    for (int p = 0; p < panels; p += kPanelsPerTask)
      for (size_t j = first; j < last; ++j) {
        const int count = std::min(kPanelsPerTask, panels - p);
        const auto at = [&](int panel) {
          return jobs_[j].offset + static_cast<size_t>(panel) * static_cast<size_t>(step) * m.panel_bytes();
        };
        tasks.push_back({&jobs_[j], p, count, at(p), at(p + count)});
      }
  }
  return tasks;
}

Buffer Packing::load(Device& device, const std::string& what) {
  check();
  Buffer buffer = device.take(bytes());
  load_into(buffer, device, what);
  return buffer;
}

void Packing::load_into(const Buffer& buffer, Device& device, const std::string& what) {
  if (rounds()) log_warning("{}: weights that are stored as F32 or F16 are rounded to BF16", what);
  Progress progress("loading " + what, "loaded " + what, bytes_, LogLevel::debug);
  const std::vector<Task> all = tasks();
  for (size_t first = 0, last; first < all.size(); first = last) {
    std::byte* const to = buffer.bytes() + all[first].begin;
    const std::span<std::byte> window = device.window(to, bytes_ - all[first].begin);
    for (last = first; last < all.size() && all[last].end - all[first].begin <= window.size();) ++last;
    if (last == first)
      fail(kExitDevice, "loading {}: {} bytes do not fit into a window of {}", what, all[first].end - all[first].begin,
           window.size());
    pack(std::span(all).subspan(first, last - first), {window.data(), all[first].begin}, device.host_threads(),
         [&](size_t packed) { progress.add(packed); });
    device.write(to, window.data(), all[last - 1].end - all[first].begin);
  }
  for (const Vector& v : vectors_)
    device.write(buffer.bytes() + bytes_ + v.offset, v.values.data(), v.values.size() * sizeof(float));
  progress.finish();
  set_targets(buffer.bytes());
}

void Packing::load_into(std::byte* memory, ThreadPool& pool) {
  check();
  pack(tasks(), {memory, 0}, pool, [](size_t) {});
  for (const Vector& v : vectors_)
    std::memcpy(memory + bytes_ + v.offset, v.values.data(), v.values.size() * sizeof(float));
  set_targets(memory);
}

void Packing::set_targets(const std::byte* memory) const {
  for (const Job& job : jobs_) job.target->data = memory + job.offset;
  for (const Vector& v : vectors_)
    *v.target = {reinterpret_cast<const float*>(memory + bytes_ + v.offset), v.values.size()};
}

// `done` is called with the bytes of every part, by the thread that made it.
void Packing::pack(std::span<const Task> tasks, Window window, ThreadPool& pool,
                   const std::function<void(size_t)>& done) const {
  FirstError error;
  pool.run(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    error.guard([&] {
      const Task& task = tasks[static_cast<size_t>(i)];
      pack(task, window);
      done(static_cast<size_t>(task.panels) * task.job->target->panel_bytes());
    });
  });
  error.rethrow();
}

void Packing::pack(const Task& task, Window window) const {
  const Job& job = *task.job;
  for (int p = task.first_panel; p < task.first_panel + task.panels; ++p) {
    std::byte* out = window.at + (job.offset - window.begin) +
                     static_cast<size_t>(job.first_panel + p * job.panel_step) * job.target->panel_bytes();
    if (job.target->format != job.stored)
      pack_quantized(job, p, out);
    else if (job.stored == Format::BF16)
      pack_bf16(job, p, out);
    else if (job.stored == Format::FP8)
      pack_fp8(job, p, out);
    else
      pack_int4(job, p, out);
  }
}

namespace {

// Calls part(run, first row of the tensor, rows, rows before) for each run's part of a panel.
template <class Part>
int for_panel(const std::vector<RowRun>& runs, int panel, const Part& part) {
  const int64_t begin = static_cast<int64_t>(panel) * kPanel, end = begin + kPanel;
  int64_t run_begin = 0;
  int count = 0;
  for (const RowRun& run : runs) {
    const int64_t from = std::max(begin, run_begin), to = std::min(end, run_begin + run.count);
    if (from < to) {
      part(run, run.first + from - run_begin, to - from, count);
      count += static_cast<int>(to - from);
    }
    run_begin += run.count;
  }
  return count;
}

}  // namespace

void Packing::pack_bf16(const Job& job, int panel, std::byte* out) const {
  thread_local std::vector<std::byte> scratch;
  thread_local std::vector<bf16> gathered;
  const int64_t width = job.rows.front().shape.back();
  const bf16* rows = nullptr;
  const int count = for_panel(job.rows, panel, [&](const RowRun& run, int64_t first, int64_t n, int before) {
    const StoredRows part = checkpoint_.rows(run.name, run.shape, first, n, scratch);
    // Whole and aligned panels are packed from where they are.
    if (part.type == StoredType::bf16 && n == kPanel &&
        reinterpret_cast<uintptr_t>(part.bytes.data()) % alignof(bf16) == 0) {
      rows = reinterpret_cast<const bf16*>(part.bytes.data());
      return;
    }
    gathered.resize(static_cast<size_t>(kPanel * width));
    to_bf16_rounded(part.type, part.bytes.data(), n * width, &gathered[static_cast<size_t>(before * width)]);
    rows = gathered.data();
  });
  Bf16Format::pack(count ? rows + job.first_column : nullptr, width, count, job.columns, out);
}

void Packing::pack_fp8(const Job& job, int panel, std::byte* out) const {
  thread_local std::vector<std::byte> scratch, scale_scratch;
  thread_local std::vector<uint8_t> bytes;
  const PackedMatrix& m = *job.target;
  const int64_t width = job.rows.front().shape.back();
  std::vector<float> scales(static_cast<size_t>(m.groups()), 0.0f);
  bytes.assign(static_cast<size_t>(kPanel * job.columns), 0);
  const int count = for_panel(job.rows, panel, [&](const RowRun& run, int64_t first, int64_t n, int before) {
    const StoredRows part = checkpoint_.rows(run.name, run.shape, first, n, scratch);
    if (part.type == StoredType::bf16) {  // generated
      std::fill(scales.begin(), scales.end(), 1.0f / 1024);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < job.columns; ++c) {
          bf16 w;
          std::memcpy(&w, part.bytes.data() + (r * width + job.first_column + c) * 2, sizeof w);
          bytes[static_cast<size_t>((before + r) * job.columns + c)] = Fp8Format::nearest(1024 * to_float(w));
        }
      return;
    }
    for (int64_t r = 0; r < n; ++r)
      std::memcpy(&bytes[static_cast<size_t>((before + r) * job.columns)],
                  part.bytes.data() + r * width + job.first_column, static_cast<size_t>(job.columns));
    const StoredRows blocks = checkpoint_.rows(run.name + "_scale_inv", scale_shape(run.shape, quant_),
                                               scale_row(run.shape, quant_, first), 1, scale_scratch);
    for (size_t g = 0; g < scales.size(); ++g) {
      const int64_t column = job.first_column + static_cast<int64_t>(g) * m.group_tiles * kTileK;
      const size_t block = static_cast<size_t>(column / quant_.block_columns);
      to_floats(blocks.type, blocks.bytes.data() + block * bytes_of(blocks.type), 1, &scales[g]);
    }
  });
  Fp8Format::pack(
      bytes.data(), job.columns, count, m, [&](int g) { return scales[static_cast<size_t>(g)]; }, out);
}

void Packing::pack_int4(const Job& job, int panel, std::byte* out) const {
  thread_local std::vector<std::byte> scratch, scale_scratch;
  thread_local std::vector<std::byte> words;
  thread_local std::vector<bf16> scales;
  const PackedMatrix& m = *job.target;
  const int64_t row_bytes = job.columns / 2, groups = m.groups();
  words.assign(static_cast<size_t>(kPanel * row_bytes), std::byte{0x88});
  scales.assign(static_cast<size_t>(kPanel * groups), 0);
  const int count = for_panel(job.rows, panel, [&](const RowRun& run, int64_t first, int64_t n, int before) {
    if (checkpoint_.names().empty()) {  // generated: the bits of the values serve as nibbles
      const StoredRows part = checkpoint_.rows(run.name, run.shape, first, n, scratch);
      for (int64_t r = 0; r < n; ++r)
        for (int64_t i = 0; i < row_bytes; ++i)
          words[static_cast<size_t>((before + r) * row_bytes + i)] =
              part.bytes[static_cast<size_t>(2 * (r * run.shape.back() + job.first_column + 2 * i))] | std::byte{0x11};
      std::fill(scales.begin() + before * groups, scales.begin() + (before + n) * groups, to_bf16(0.005f));
      return;
    }
    const StoredRows part = checkpoint_.rows(run.name + "_packed", divided(run.shape, 8), first, n, scratch);
    const StoredRows factors = checkpoint_.rows(run.name + "_scale", divided(run.shape, 32), first, n, scale_scratch);
    const int64_t part_bytes = run.shape[1] / 2, part_groups = run.shape[1] / kTileK;
    for (int64_t r = 0; r < n; ++r) {
      std::memcpy(&words[static_cast<size_t>((before + r) * row_bytes)],
                  part.bytes.data() + r * part_bytes + job.first_column / 2, static_cast<size_t>(row_bytes));
      std::memcpy(&scales[static_cast<size_t>((before + r) * groups)],
                  factors.bytes.data() + (r * part_groups + job.first_column / kTileK) * 2,
                  static_cast<size_t>(groups) * 2);
    }
  });
  RawInt4Format::pack(words.data(), row_bytes, scales.data(), groups, count, m, out);
}

void Packing::pack_quantized(const Job& job, int panel, std::byte* out) const {
  thread_local std::vector<float> values;
  values.resize(static_cast<size_t>(kPanel * job.columns));
  const int64_t end = job.first_column + job.columns;
  const int count = for_panel(job.rows, panel, [&](const RowRun& run, int64_t first, int64_t n, int before) {
    const FloatRows rows(checkpoint_, quant_, {run.name, run.shape, first, n});
    rows.read(0, n, {static_cast<int>(job.first_column), static_cast<int>(end)},
              &values[static_cast<size_t>(before * job.columns)]);
  });
  quantize_panel(*job.target, values.data(), count, out);
}

}  // namespace kt
