// Memory, and a step's begin.

#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstring>

namespace kt::SIMT_TABLE {
namespace {

constexpr size_t kWindowBytes = size_t{64} << 20;

Buffer device_memory(size_t bytes) {
  return bytes ? Buffer(simt::allocate(bytes), bytes, [](void* p) { simt::release(p); }) : Buffer();
}
Buffer pinned_memory(size_t bytes) {
  return bytes ? Buffer(simt::allocate_pinned(bytes), bytes, [](void* p) { simt::release_pinned(p); }) : Buffer();
}

// One part of what is uploaded for a step: laid out twice, for the host and the device.
struct Upload {
  Layout host, device;

  template <class T>
  const T* put(const std::vector<T>& values) {
    T* to = host.array<T>(static_cast<int64_t>(values.size()));
    if (to && !values.empty()) std::memcpy(to, values.data(), values.size() * sizeof(T));
    return device.array<T>(static_cast<int64_t>(values.size()));
  }
};
DeviceBatch put(Upload& to, const Batch& b) {
  return {.slices = to.put(b.slices),
          .blocks = to.put(b.blocks),
          .slice_of = to.put(b.slice_of),
          .positions = to.put(b.positions),
          .logit_rows = to.put(b.logit_rows),
          .places = to.put(b.places),
          .cosines = to.put(b.cosines),
          .sines = to.put(b.sines),
          .rows = b.rows(),
          .half = b.half()};
}

}  // namespace

CudaDevice::CudaDevice(ThreadPool& pool) : pool_(pool), stream_(simt::make_stream()) {}
CudaDevice::~CudaDevice() {
  ranks_.reset();  // first: what waits for others ends
  simt::finish(stream_);
  for (const auto& host : adopted_) simt::unregister(host.data());
  simt::release_stream(stream_);
}

Buffer CudaDevice::take(size_t bytes) {
  Buffer memory = device_memory(bytes);
  if (bytes) simt::clear(memory.bytes(), bytes, stream_);
  wait();
  return memory;
}
Buffer CudaDevice::take_host(size_t bytes) {
  Buffer memory = pinned_memory(bytes);
  if (bytes) std::memset(memory.bytes(), 0, bytes);
  return memory;
}
void CudaDevice::adopt(void* host, size_t bytes) {
  simt::register_pinned(host, bytes);
  adopted_.push_back({static_cast<std::byte*>(host), bytes});
}
// The host's bytes may be used again at once.
void CudaDevice::write(void* to, const void* host, size_t bytes) {
  simt::copy(to, host, bytes, stream_);
  wait();
}
std::span<std::byte> CudaDevice::window(std::byte*, size_t bytes) {
  if (!window_.size()) window_ = pinned_memory(kWindowBytes);
  return {window_.bytes(), std::min(bytes, kWindowBytes)};
}
void CudaDevice::copy(void* to, const void* from, size_t bytes) { simt::copy(to, from, bytes, stream_); }
void CudaDevice::clear(void* at, size_t bytes) { simt::clear(at, bytes, stream_); }
// A sum whose other ranks have failed would never be done.
void CudaDevice::wait() {
  if (!ranks_) return simt::finish(stream_);
  while (!simt::is_done(stream_)) ranks_->check();
}

// What the host can read already stays where it is.
const float* CudaDevice::read(const Mat<float>& x) {
  const auto* at = reinterpret_cast<const std::byte*>(x.at);
  for (const auto& host : adopted_)
    if (at >= host.data() && at < host.data() + host.size()) {
      wait();
      return x.at;
    }
  const size_t bytes = static_cast<size_t>(x.rows * x.ld) * sizeof(float);
  if (read_.size() < bytes) read_ = pinned_memory(bytes);
  if (bytes) simt::copy(read_.bytes(), x.at, bytes, stream_);
  wait();
  return read_.as<float>();
}

void CudaDevice::reserve(const StepShape& largest) {
  shape_ = largest;
  Layout counted, pinned_counted;
  lay_out_cuda(counted, nullptr, largest);
  lay_out_pinned(pinned_counted, largest);
  memory_ = Buffer();  // first: there may be no room for both
  memory_ = device_memory(counted.bytes());
  pinned_ = pinned_memory(pinned_counted.bytes());
  Layout layout, pinned(pinned_.bytes());
  scratch_ = lay_out_cuda(layout, memory_.bytes(), largest);
  host_ = lay_out_pinned(pinned, largest);
}

void CudaDevice::begin(Batch& batch) {
  host_batch_ = &batch;
  rotary_angles(batch, pool_);
  Upload counted;
  put(counted, batch);
  if (batch_memory_.size() < counted.host.bytes()) {
    wait();
    batch_staging_ = pinned_memory(2 * counted.host.bytes());
    batch_memory_ = device_memory(2 * counted.host.bytes());
  }
  wait();  // for the last step's upload
  Upload upload{Layout(batch_staging_.bytes()), Layout(batch_memory_.bytes())};
  batch_ = put(upload, batch);
  if (upload.host.bytes()) simt::copy(batch_memory_.bytes(), batch_staging_.bytes(), upload.host.bytes(), stream_);
}

// ---- what devices.cpp knows of it

std::unique_ptr<Device> make_device(ThreadPool& pool, int index) {
  simt::choose_device(index);
  return std::make_unique<CudaDevice>(pool);
}
DevicesHere devices_here() {
  DevicesHere here;
  const int count = simt::device_count(here.why_none);
  for (int index = 0; index < count; ++index) {
    int capability = 0;
    const std::string name = simt::device_name(index, capability);
    if (runs_on(cuda_architectures(), capability))
      here.devices.push_back({index, name});
    else
      here.why_none = name + " has compute capability " + std::to_string(capability / 10) + "." +
                      std::to_string(capability % 10) + ", this program is built for " +
                      std::string(cuda_architectures());
  }
  return here;
}
size_t available_bytes(int index) {
  simt::choose_device(index);
  return simt::free_memory();
}

}  // namespace kt::SIMT_TABLE
