#include "launcher/heat_map.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>

#include "runtime/base/error.h"

namespace kt {
namespace {

using Colour = std::array<uint8_t, 3>;

constexpr Colour kBackground = {255, 255, 255}, kNoChoices = {160, 160, 160};
constexpr Colour kScale[] = {{0, 0, 0}, {60, 15, 110}, {185, 50, 90}, {250, 145, 30}, {255, 250, 150}};
constexpr int kWidest = 2048;  // pixels that the cells together should not exceed
constexpr int kLargestCell = 16;

// 0: cold, 1: hot; in between along kScale.
Colour colour_of(double heat) {
  const double at = std::clamp(heat, 0.0, 1.0) * static_cast<double>(std::size(kScale) - 1);
  const size_t below = std::min(static_cast<size_t>(at), std::size(kScale) - 2);
  Colour mixed;
  for (size_t i = 0; i < mixed.size(); ++i) {
    const double from = kScale[below][i], to = kScale[below + 1][i];
    mixed[i] = static_cast<uint8_t>(from + (to - from) * (at - static_cast<double>(below)) + 0.5);
  }
  return mixed;
}

class Picture {
 public:
  Picture(int width, int height)
      : width_(width),
        height_(height),
        pixels_(static_cast<size_t>(width) * static_cast<size_t>(height), kBackground) {}

  void fill(int left, int top, int size, Colour colour) {
    for (int y = top; y < top + size; ++y)
      std::fill_n(pixels_.begin() + static_cast<std::ptrdiff_t>(y) * width_ + left, size, colour);
  }

  void write(const std::filesystem::path& file) const {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(width_);
    image.height = static_cast<png_uint_32>(height_);
    image.format = PNG_FORMAT_RGB;
    if (!png_image_write_to_file(&image, file.c_str(), 0, pixels_.data(), 0, nullptr))
      fail(kExitUsage, "{}: cannot be written: {}", file.string(), image.message);
  }

 private:
  int width_, height_;
  std::vector<Colour> pixels_;
};

}  // namespace

void write_heat_map(const std::filesystem::path& file, const ExpertCounts& counts) {
  const int cell = std::clamp(kWidest / (2 * counts.experts), 1, kLargestCell), panel = counts.experts * cell;
  Picture picture(2 * panel + cell, counts.layers * cell);
  for (int layer = 0; layer < counts.layers; ++layer) {
    const std::span<const uint64_t> row = counts.of_layer(static_cast<size_t>(layer));
    const double all = std::accumulate(row.begin(), row.end(), 0.0), mean = all / counts.experts;
    const auto draw = [&](int left, std::span<const uint64_t> numbers) {
      for (const uint64_t n : numbers) {
        const Colour colour = all > 0 ? colour_of(static_cast<double>(n) / mean / kHottest) : kNoChoices;
        picture.fill(left, layer * cell, cell, colour);
        left += cell;
      }
    };
    std::vector<uint64_t> sorted(row.begin(), row.end());
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    draw(0, row);
    draw(panel + cell, sorted);
  }
  picture.write(file);
}

}  // namespace kt
