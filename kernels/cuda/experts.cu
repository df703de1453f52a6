// Routed experts.

#include "kernels/cuda/chains.h"
#include "kernels/cuda/device.h"

#include <algorithm>

namespace kt::SIMT_TABLE {
namespace {

constexpr int kForms = 4;
constexpr Form kAllForms[kForms] = {Form::kFour, Form::kEight, Form::kMany, Form::kTensor};

// Rows of every expert, cut into tasks.
struct Cut {
  int pairs = 0, groups = 0;  // rows of experts; experts with rows
  int tasks[kForms] = {};     // by form; they follow one another
  int expert = -1;            // one with rows; all are alike
  Method method;

  int first(int form) const { return form ? first(form - 1) + tasks[form - 1] : 0; }
  int all() const { return first(kForms); }
};

// Counts each expert's rows.
Cut count_rows(const ExpertsJob& job, bool tensor_cores, int experts, int* count) {
  const Routing& routing = job.routing;
  std::fill_n(count, experts, 0);
  for (int i = 0; i < routing.rows * routing.top_k; ++i)
    if (routing.ids[i] >= 0) ++count[routing.ids[i]];
  Cut cut;
  for (int e = 0; e < experts; ++e) {
    if (!count[e]) continue;
    cut.pairs += count[e];
    ++cut.groups;
    cut.method = {job.experts[e].gate_up.format, tensor_cores};
    const Form form = cut.method.form(count[e]);
    cut.tasks[static_cast<int>(form)] += static_cast<int>(ceil_div(count[e], block_rows(form)));
    cut.expert = e;
  }
  return cut;
}

// Where the next task of a form goes. A wave of them, whose activations there is room for, begins where `at` is 0.
struct NextTask {
  RowTask* task = nullptr;
  int at = 0;
};

// Counting sort by expert; rows of one expert stay in ascending order. count: as counted; used up.
void sort_rows(const ExpertsJob& job, int experts, const Cut& cut, int room, int* count, const ExpertOrders& to) {
  NextTask next[kForms];
  for (int form = 0; form < kForms; ++form) next[form].task = to.tasks + cut.first(form);
  for (int e = 0, first = 0; e < experts; ++e) {
    const int end = first + count[e];
    const Form form = cut.method.form(count[e]);
    NextTask& n = next[static_cast<int>(form)];
    count[e] = first;
    for (int rows; first < end; first += rows, n.at += rows) {
      rows = std::min(block_rows(form), end - first);
      if (n.at + rows > room) n.at = 0;
      *n.task++ = {job.experts[e].gate_up.data, job.experts[e].down.data, first, rows, n.at};
    }
  }
  for (int i = 0; i < job.routing.rows * job.routing.top_k; ++i) {
    if (job.routing.ids[i] < 0) continue;
    const int at = count[job.routing.ids[i]]++;
    to.row[at] = i / job.routing.top_k;
    to.weight[at] = job.routing.weights[i];
  }
}

}  // namespace

// Orders are made on the host and go to the device in one copy. Those of many calls fit into the staging memory; when
// it is full, the stream is finished, and with it every copy from there, before it is filled again.
double CudaDevice::experts(const ExpertsJob& job) {
  if (!shape_.experts.columns || !job.routing.rows) return 0.0;  // a rank may have none of them
  int* count = host_.rows_of_expert;
  const Cut cut = count_rows(job, shape_.tensor_cores, shape_.experts.experts, count);
  if (!cut.groups) return 0.0;
  const FfnWeights& any = job.experts[cut.expert];
  if (!any.columns) return 0.0;

  const ExpertRoom& room = scratch_.experts;
  Staging& staging = host_.orders;
  Layout needed;
  lay_out_orders(needed, cut.pairs, cut.all());
  if (staging.used + needed.bytes() > staging.bytes) {
    wait();
    staging.used = 0;
  }
  std::byte* const staged = staging.at + staging.used;
  Layout on_host(staged), on_device(room.orders);
  const ExpertOrders filled = lay_out_orders(on_host, cut.pairs, cut.all());
  const ExpertOrders orders = lay_out_orders(on_device, cut.pairs, cut.all());
  sort_rows(job, shape_.experts.experts, cut, room.rows, count, filled);
  staging.used += needed.bytes();
  simt::copy(room.orders, staged, needed.bytes(), stream_);

  const int64_t ldh = round_up(any.columns, kTileK);
  SwigluJob gate_up{.x = input_rows(job.x.top(job.routing.rows), any.gate_up, room.x, stream_),
                    .gate_up = weights_of(any.gate_up),
                    .h = room.activations,
                    .ldh = ldh,
                    .panels = static_cast<int>(ldh / kPanel),
                    .row = orders.row};
  SumJob down{.w = weights_of(any.down),
              .slice = job.slice / kTileK,
              .scale = orders.weight,
              .y = job.y.at,
              .ldy = job.y.ld,
              .row = orders.row};
  int next = 0;
  for (const Form form : kAllForms)
    for (const int end = next + cut.tasks[static_cast<int>(form)]; next < end;) {
      const int first = next;
      int rows = 0;
      do rows += filled.tasks[next++].count;
      while (next < end && filled.tasks[next].at);
      gate_up.tasks = down.tasks = orders.tasks + first;
      launch_swiglu(cut.method, form, gate_up, next - first, stream_);
      down.x = input_rows({room.activations, ldh, rows, any.columns}, any.down, room.quantised, stream_);
      launch_sum(cut.method, form, down, next - first, stream_);
    }
  return static_cast<double>(cut.groups) * static_cast<double>(any.gate_up.bytes() + any.down.bytes());
}

}  // namespace kt::SIMT_TABLE
