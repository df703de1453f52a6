#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "runtime/engine/request.h"

namespace kt {

// What the sampler must remember of one request.
struct SamplerState {
  uint64_t seed = 0;
  std::unordered_map<int32_t, int> output_counts;  // for frequency and presence penalty
  std::unordered_set<int32_t> seen;                // prompt and output, for repetition penalty
  std::vector<int32_t> banned;  // while fewer than min_new_tokens were made: what would end the answer
};

SamplerState make_sampler_state(const GenerateRequest& request, std::span<const int32_t> eos, uint64_t fresh_seed);
void count_output(SamplerState& state, const SamplingParams& params, int32_t token);

// Uniform in [0, 1): output number `position` of a SplitMix64 generator (Steele, Lea, Flood 2014) that starts at the
// mixed seed. Depends on the pair alone, so neither batch nor retraction change a seeded answer.
double uniform(uint64_t seed, uint64_t position);

// Chooses tokens from logits; holds only scratch memory. One thread.
class Sampler {
 public:
  // Ids from `known` on have no text (padding rows of the head): they are never chosen nor listed. Rows of logits have
  // at least `known` values.
  explicit Sampler(int known) : known_(known) {}

  // The token at `position` of the sequence, of which `made` output tokens are there. Nothing if a logit is NaN or
  // +infinity or all are -infinity: then the model, not the request, is broken.
  //   allowed       of a grammar, bit id % 32 of word id / 32: others are not chosen; empty: all may be. min_new_tokens
  //                 bans no token that is the only one allowed
  //   greedy        largest logit, the lowest id among equals
  //   repetition    before frequency and presence penalty, then min_new_tokens, then logit_bias
  //   top_p         a token stays if the mass before it is at most top_p, on the probabilities before top_k
  //   min_p         a token stays if it has at least min_p times the largest probability
  std::optional<int32_t> sample(std::span<const float> logits, const SamplingParams& params, const SamplerState& state,
                                int made, uint64_t position, std::span<const uint32_t> allowed = {});

  // Of the raw logits, over the whole row, summed in float64 in order of the ids.
  TokenLogprob logprob(std::span<const float> logits, int32_t id, int top);

 private:
  struct Candidate {
    float logit = 0.0f;
    int32_t id = 0;
  };

  std::span<const float> adjusted(std::span<const float> logits, const SamplingParams& params,
                                  const SamplerState& state, int made, std::span<const uint32_t> allowed);
  int32_t draw_from_all(std::span<const float> logits, float largest, double temperature, double u) const;
  int32_t draw_from_best(std::span<const float> logits, float largest, const SamplingParams& params, double u);
  void gather(std::span<const float> logits, float threshold);
  void gather_best(std::span<const float> logits, float largest, size_t count);

  int known_;
  std::vector<float> scratch_;
  std::vector<Candidate> best_;  // sorted, best first, lowest id first among equals
};

}  // namespace kt
