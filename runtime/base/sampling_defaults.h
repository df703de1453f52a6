#pragma once

#include <optional>

namespace kt {

// What generation_config.json recommends. A request's own value goes before it; without either: 1.0, 1.0, all (-1),
// 0.0, 1.0.
struct SamplingDefaults {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int> top_k;
};

}  // namespace kt
