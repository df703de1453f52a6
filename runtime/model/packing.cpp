#include "runtime/model/packing.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>

#include "kernels/format/bf16.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace kt {
namespace {

constexpr int kPanelsPerTask = 64;

// Says how far a load is, at most every five seconds; any thread may add.
class Progress {
 public:
  Progress(std::string what, size_t total) : what_(std::move(what)), total_(total) {}

  void add(size_t bytes) {
    const size_t done = done_ += bytes;
    const double now = seconds();
    double due = next_line_.load();
    if (now < due || !next_line_.compare_exchange_strong(due, now + 5.0)) return;
    const double rate = static_cast<double>(done) / now;
    log("loading {}: {:.1f} of {:.1f} GB, {:.2f} GB/s, {:.0f} s left", what_, gb(done), gb(total_), rate / 1e9,
        static_cast<double>(total_ - done) / rate);
  }
  void finish() const {
    log("loaded {}: {:.2f} GB in {:.1f} s ({:.2f} GB/s)", what_, gb(total_), seconds(),
        gb(total_) / std::max(seconds(), 1e-3));
  }

 private:
  static double gb(size_t bytes) { return static_cast<double>(bytes) / 1e9; }
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

  std::string what_;
  size_t total_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::atomic<size_t> done_{0};
  std::atomic<double> next_line_{5.0};
};

void require_bf16(StoredType type, const std::string& name) {
  if (type != StoredType::bf16) fail(kExitModel, "{}: expected BF16 weights, found {}", name, name_of(type));
}

}  // namespace

void Packing::add(PackedMatrix* target, std::vector<RowRun> rows, int64_t first_column, int columns) {
  int64_t n = 0;
  for (const RowRun& r : rows) n += r.count;
  *target = {.n = static_cast<int>(n), .k = columns};
  jobs_.push_back({target, std::move(rows), first_column, columns, bytes_, 0, 1});
  bytes_ += target->bytes();
}

void Packing::add_pair(PackedMatrix* target, RowRun gate, RowRun up) {
  const int columns = static_cast<int>(gate.shape.back());
  *target = {.n = static_cast<int>(2 * round_up(gate.count, 2 * kPanel)), .k = columns};
  jobs_.push_back({target, {std::move(gate)}, 0, columns, bytes_, 0, 2});
  jobs_.push_back({target, {std::move(up)}, 0, columns, bytes_, 1, 2});
  bytes_ += target->bytes();
}

void Packing::check(const Checkpoint& checkpoint) const {
  std::vector<std::byte> scratch;
  for (const Job& job : jobs_)
    for (const RowRun& run : job.rows)
      require_bf16(checkpoint.rows(run.name, run.shape, run.first, 0, scratch).type, run.name);
}

Buffer Packing::load(const Checkpoint& checkpoint, ThreadPool& pool, int numa_node, const std::string& what) {
  check(checkpoint);
  Buffer buffer(bytes_, numa_node, pool);
  struct Task {
    const Job* job;
    int first_panel, panels;
  };
  std::vector<Task> tasks;
  for (const Job& job : jobs_) {
    int64_t n = 0;
    for (const RowRun& r : job.rows) n += r.count;
    const int panels = static_cast<int>(ceil_div(n, kPanel));
    for (int p = 0; p < panels; p += kPanelsPerTask) tasks.push_back({&job, p, std::min(kPanelsPerTask, panels - p)});
  }
  Progress progress(what, bytes_);
  std::exception_ptr error;
  std::mutex error_mutex;
  pool.run(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    try {
      pack(checkpoint, *tasks[i].job, tasks[i].first_panel, tasks[i].panels, buffer.bytes());
      progress.add(static_cast<size_t>(tasks[i].panels) * tasks[i].job->target->panel_bytes());
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
  for (const Job& job : jobs_) job.target->data = buffer.bytes() + job.offset;
  progress.finish();
  return buffer;
}

void Packing::pack(const Checkpoint& checkpoint, const Job& job, int first_panel, int panels, std::byte* buffer) const {
  std::vector<std::byte> scratch;
  std::vector<bf16> gathered;
  const int64_t width = job.rows.front().shape.back();
  for (int p = first_panel; p < first_panel + panels; ++p) {
    const int64_t begin = static_cast<int64_t>(p) * kPanel, end = begin + kPanel;
    // The parts of the runs that are in this panel; rows in one aligned part are packed from where they are.
    const bf16* rows = nullptr;
    int count = 0;
    gathered.clear();
    int64_t run_begin = 0;
    for (const RowRun& run : job.rows) {
      const int64_t from = std::max(begin, run_begin), to = std::min(end, run_begin + run.count);
      if (from < to) {
        const StoredRows part = checkpoint.rows(run.name, run.shape, run.first + from - run_begin, to - from, scratch);
        const bool whole = to - from == kPanel && reinterpret_cast<uintptr_t>(part.bytes.data()) % alignof(bf16) == 0;
        if (whole) {
          rows = reinterpret_cast<const bf16*>(part.bytes.data());
        } else {
          gathered.resize(kPanel * width);
          std::memcpy(&gathered[count * width], part.bytes.data(), part.bytes.size());
          rows = gathered.data();
        }
        count += static_cast<int>(to - from);
      }
      run_begin += run.count;
    }
    const size_t panel = static_cast<size_t>(job.first_panel + p * job.panel_step);
    Bf16Format::pack(rows + job.first_column, width, count, job.columns,
                     buffer + job.offset + panel * job.target->panel_bytes());
  }
}

std::vector<float> read_floats(const Checkpoint& checkpoint, const std::string& name, std::vector<int64_t> shape) {
  std::vector<std::byte> scratch;
  const StoredRows stored = checkpoint.all_rows(name, shape, scratch);
  std::vector<float> out(stored.bytes.size() / bytes_of(stored.type));
  for (size_t i = 0; i < out.size(); ++i) {
    const std::byte* p = stored.bytes.data() + i * bytes_of(stored.type);
    if (stored.type == StoredType::f32) {
      std::memcpy(&out[i], p, sizeof(float));
    } else if (stored.type == StoredType::bf16) {
      bf16 h;
      std::memcpy(&h, p, sizeof h);
      out[i] = to_float(h);
    } else if (stored.type == StoredType::f16) {
      _Float16 h;
      std::memcpy(&h, p, sizeof h);
      out[i] = static_cast<float>(h);
    } else {
      fail(kExitModel, "{}: expected F32, BF16 or F16, found {}", name, name_of(stored.type));
    }
  }
  return out;
}

}  // namespace kt
