#include "runtime/engine/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace kt {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// SGLang's limit below which temperature means greedy.
constexpr float kGreedyTemperature = 1e-6f;

// How far below the largest logit candidates are gathered at first; doubled until they suffice.
constexpr float kFirstReach = 8.0f;

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Largest value, or nothing if there is a NaN, +infinity or only -infinity. Lanes let the compiler use vectors.
std::optional<float> largest_of(std::span<const float> values) {
  constexpr size_t kLanes = 16;
  std::array<float, kLanes> lane;
  std::array<int, kLanes> odd{};  // NaNs seen: they compare equal to nothing
  lane.fill(kLowest);
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      const float x = values[i + j];
      lane[j] = x > lane[j] ? x : lane[j];
      odd[j] |= x != x;
    }
  }
  for (; i < values.size(); ++i) {
    lane[0] = values[i] > lane[0] ? values[i] : lane[0];
    odd[0] |= values[i] != values[i];
  }
  const float largest = *std::max_element(lane.begin(), lane.end());
  const bool nan = std::any_of(odd.begin(), odd.end(), [](int seen) { return seen != 0; });
  if (nan || !std::isfinite(largest)) return std::nullopt;
  return largest;
}

bool is_allowed(std::span<const uint32_t> allowed, size_t id) { return (allowed[id / 32] >> (id % 32)) & 1; }

// A grammar allows some of these tokens and no others.
bool only_allows(std::span<const uint32_t> allowed, std::span<const int32_t> tokens) {
  if (allowed.empty()) return false;
  std::vector<uint32_t> others(allowed.begin(), allowed.end());
  for (const int32_t id : tokens) {
    const size_t bit = static_cast<size_t>(id);
    if (id >= 0 && bit / 32 < others.size()) others[bit / 32] &= ~(uint32_t{1} << (bit % 32));
  }
  return std::all_of(others.begin(), others.end(), [](uint32_t word) { return word == 0; });
}

}  // namespace

SamplerState make_sampler_state(const GenerateRequest& request, std::span<const int32_t> eos, uint64_t fresh_seed) {
  const SamplingParams& params = request.sampling;
  SamplerState state{.seed = params.seed.value_or(fresh_seed), .output_counts = {}, .seen = {}, .banned = {}};
  if (params.repetition_penalty != 1.0f) state.seen.insert(request.input_ids.begin(), request.input_ids.end());
  if (params.min_new_tokens > 0) {
    state.banned.assign(eos.begin(), eos.end());
    state.banned.insert(state.banned.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  }
  return state;
}

void count_output(SamplerState& state, const SamplingParams& params, int32_t token) {
  if (params.frequency_penalty != 0.0f || params.presence_penalty != 0.0f) ++state.output_counts[token];
  if (params.repetition_penalty != 1.0f) state.seen.insert(token);
}

double uniform(uint64_t seed, uint64_t position) {
  constexpr uint64_t kGamma = 0x9e3779b97f4a7c15u;
  return static_cast<double>(mix(mix(seed) + (position + 1) * kGamma) >> 11) * 0x1.0p-53;
}

std::optional<int32_t> Sampler::sample(std::span<const float> logits, const SamplingParams& params,
                                       const SamplerState& state, int made, uint64_t position,
                                       std::span<const uint32_t> allowed) {
  const std::span<const float> row = adjusted(logits.first(static_cast<size_t>(known_)), params, state, made, allowed);
  const std::optional<float> largest = largest_of(row);
  if (!largest) return std::nullopt;
  if (params.temperature < kGreedyTemperature || params.top_k == 1) {
    return static_cast<int32_t>(std::find(row.begin(), row.end(), *largest) - row.begin());
  }
  const double u = uniform(state.seed, position);
  const bool all = params.top_p >= 1.0f && params.min_p <= 0.0f && (params.top_k <= 0 || params.top_k >= known_);
  return all ? draw_from_all(row, *largest, params.temperature, u) : draw_from_best(row, *largest, params, u);
}

// The edits touch few ids, so most rows are used where they lie.
std::span<const float> Sampler::adjusted(std::span<const float> logits, const SamplingParams& params,
                                         const SamplerState& state, int made, std::span<const uint32_t> allowed) {
  const bool ban = made < params.min_new_tokens && !state.banned.empty() && !only_allows(allowed, state.banned);
  const bool as_they_are = state.seen.empty() && state.output_counts.empty() && !ban && params.logit_bias.empty();
  if (as_they_are && allowed.empty()) return logits;
  scratch_.assign(logits.begin(), logits.end());
  const auto edit = [&](int32_t id, auto change) {
    if (id >= 0 && id < known_) change(scratch_[static_cast<size_t>(id)]);
  };
  for (const int32_t id : state.seen) {
    edit(id, [&](float& x) { x = x > 0.0f ? x / params.repetition_penalty : x * params.repetition_penalty; });
  }
  for (const auto& [id, count] : state.output_counts) {
    edit(id,
         [&, n = static_cast<float>(count)](float& x) { x -= params.frequency_penalty * n + params.presence_penalty; });
  }
  if (ban) {
    for (const int32_t id : state.banned) edit(id, [](float& x) { x = kLowest; });
  }
  if (!allowed.empty()) {
    for (size_t id = 0; id < scratch_.size(); ++id) {
      if (!is_allowed(allowed, id)) scratch_[id] = kLowest;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) edit(id, [b = bias](float& x) { x += b; });
  return scratch_;
}

int32_t Sampler::draw_from_all(std::span<const float> logits, float largest, double temperature, double u) const {
  const auto weight = [&](float x) { return std::exp((static_cast<double>(x) - largest) / temperature); };
  double total = 0.0;
  for (const float x : logits) total += weight(x);
  double left = u * total;
  int32_t last = 0;  // rounding may leave a little beyond the last token that has weight
  for (size_t i = 0; i < logits.size(); ++i) {
    const double w = weight(logits[i]);
    if (w <= 0.0) continue;
    last = static_cast<int32_t>(i);
    left -= w;
    if (left < 0.0) break;
  }
  return last;
}

int32_t Sampler::draw_from_best(std::span<const float> logits, float largest, const SamplingParams& params, double u) {
  const double temperature = params.temperature;
  const auto weight = [&](float x) { return std::exp((static_cast<double>(x) - largest) / temperature); };
  const size_t top_k = params.top_k <= 0 ? logits.size() : std::min(logits.size(), static_cast<size_t>(params.top_k));
  double mass_limit = std::numeric_limits<double>::infinity();
  if (params.top_p < 1.0f) {
    mass_limit = 0.0;
    for (const float x : logits) mass_limit += weight(x);
    mass_limit *= params.top_p;
  }
  // Candidates in order, as far down as any of the three limits lets a token through.
  for (float reach = kFirstReach * std::max(1.0f, params.temperature);; reach *= 2.0f) {
    gather(logits, largest - reach);
    size_t kept = 0;
    double mass = 0.0;
    while (kept < std::min(best_.size(), top_k) && mass <= mass_limit) {
      const double w = weight(best_[kept].logit);
      if (w < params.min_p || w <= 0.0) break;
      mass += w;
      ++kept;
    }
    // Stopped by a limit, or nothing is left below.
    const bool complete =
        kept < best_.size() || kept == top_k || best_.size() == logits.size() || weight(largest - reach) <= 0.0;
    if (!complete) continue;
    double left = u * mass;
    for (size_t i = 0; i + 1 < kept; ++i) {
      left -= weight(best_[i].logit);
      if (left < 0.0) return best_[i].id;
    }
    return best_[kept - 1].id;
  }
}

// All ids with at least that logit, sorted.
void Sampler::gather(std::span<const float> logits, float threshold) {
  best_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] >= threshold) best_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  std::sort(best_.begin(), best_.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
}

void Sampler::gather_best(std::span<const float> logits, float largest, size_t count) {
  for (float reach = kFirstReach;; reach *= 2.0f) {
    gather(logits, std::isfinite(reach) ? largest - reach : kLowest);
    if (best_.size() >= std::min(count, logits.size()) || !std::isfinite(reach)) break;
  }
  if (best_.size() > count) best_.resize(count);
}

TokenLogprob Sampler::logprob(std::span<const float> logits, int32_t id, int top) {
  const float largest = largest_of(logits).value_or(std::numeric_limits<float>::quiet_NaN());
  double total = 0.0;
  for (const float x : logits) total += std::exp(static_cast<double>(x) - largest);
  const double log_total = largest + std::log(total);
  const auto logprob_of = [&](float x) { return static_cast<float>(x - log_total); };
  TokenLogprob result{.id = id, .logprob = logprob_of(logits[static_cast<size_t>(id)]), .top = {}};
  if (top <= 0 || std::isnan(largest)) return result;
  const std::span<const float> row = logits.first(static_cast<size_t>(known_));
  gather_best(row, largest, static_cast<size_t>(top));
  for (const Candidate& c : best_) result.top.emplace_back(c.id, logprob_of(c.logit));
  return result;
}

}  // namespace kt
