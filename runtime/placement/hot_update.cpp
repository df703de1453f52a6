#include "runtime/placement/hot_update.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/error.h"

namespace kt {
namespace {

bool contains(const std::vector<int32_t>& sorted, int32_t e) {
  return std::binary_search(sorted.begin(), sorted.end(), e);
}

struct Scored {
  double score;
  int layer;
  int32_t expert;
};

// Ties go to the lower layer, then the lower expert.
bool higher(const Scored& a, const Scored& b) {
  if (a.score != b.score) return a.score > b.score;
  return a.layer != b.layer ? a.layer < b.layer : a.expert < b.expert;
}

}  // namespace

UpdateRule update_rule(std::string_view name) {
  if (name == "average") return UpdateRule::average;
  if (name == "chunk") return UpdateRule::chunk;
  if (name == "shuffle") return UpdateRule::shuffle;
  fail(kExitUsage, "kt-expert-update-rule: expected average, chunk or shuffle, found '{}'", name);
}

void apply(const Exchange& x, HotSets& hot) {
  std::vector<int32_t>& set = hot[static_cast<size_t>(x.layer)];
  if (x.out >= 0) std::erase(set, x.out);
  if (x.in >= 0) set.insert(std::lower_bound(set.begin(), set.end(), x.in), x.in);
}

HotUpdate::HotUpdate(UpdateRule rule, HotSets hot, int experts)
    : rule_(rule), hot_(std::move(hot)), experts_(experts), scores_(hot_.size() * static_cast<size_t>(experts)) {}

void HotUpdate::restore(const ExpertCounts& averages) {
  if (averages.layers != static_cast<int>(hot_.size()) || averages.experts != experts_)
    fail(kExitUsage, "saved averages are of {} layers with {} experts, the model has {} with {}", averages.layers,
         averages.experts, hot_.size(), experts_);
  std::copy(averages.counts.begin(), averages.counts.end(), scores_.begin());
}

ExpertCounts HotUpdate::averages() const {
  ExpertCounts c{.layers = static_cast<int>(hot_.size()), .experts = experts_, .counts = {}};
  for (double s : scores_) c.counts.push_back(static_cast<uint64_t>(std::llround(s)));
  return c;
}

void HotUpdate::observe(std::span<const int32_t> counts, int rows, bool qualifies) {
  if (rule_ == UpdateRule::average) {
    const double keep = std::exp2(-rows / kHalfLifeTokens);
    for (size_t i = 0; i < scores_.size(); ++i) scores_[i] = keep * scores_[i] + counts[i];
  }
  if (rule_ == UpdateRule::shuffle) return shuffle();
  if (!qualifies) return;
  if (rule_ == UpdateRule::average) choose_by_average();
  if (rule_ == UpdateRule::chunk) choose_by_chunk(counts);
}

// The least used hot experts of the whole model against the most used cold ones.
void HotUpdate::choose_by_average() {
  std::vector<Scored> hot, cold;
  for (int layer = 0; layer < static_cast<int>(hot_.size()); ++layer)
    for (int32_t e = 0; e < experts_; ++e) {
      const Scored s{score(layer, e), layer, e};
      if (contains(hot_[static_cast<size_t>(layer)], e))
        hot.push_back(s);
      else if (s.score > 0)
        cold.push_back(s);
    }
  std::sort(hot.begin(), hot.end(), [](const Scored& a, const Scored& b) { return higher(b, a); });
  std::sort(cold.begin(), cold.end(), higher);
  planned_.clear();
  for (size_t i = 0; i < std::min(hot.size(), cold.size()); ++i) {
    if (cold[i].score < hot[i].score * kLeadFactor || cold[i].score < hot[i].score + kLeadUses) break;
    planned_.push_back({hot[i].layer, -1, hot[i].expert});
    planned_.push_back({cold[i].layer, cold[i].expert, -1});
  }
}

// As many as the layer has now, the most chosen; unchanged members stay.
void HotUpdate::choose_by_chunk(std::span<const int32_t> counts) {
  planned_.clear();
  for (int layer = 0; layer < static_cast<int>(hot_.size()); ++layer) {
    const std::vector<int32_t>& now = hot_[static_cast<size_t>(layer)];
    std::vector<Scored> all;
    for (int32_t e = 0; e < experts_; ++e)
      all.push_back({static_cast<double>(counts[static_cast<size_t>(layer) * experts_ + e]), layer, e});
    std::sort(all.begin(), all.end(), higher);
    std::vector<int32_t> next;
    for (size_t i = 0; i < now.size(); ++i) next.push_back(all[i].expert);
    std::sort(next.begin(), next.end());
    std::vector<int32_t> in, out;
    std::set_difference(next.begin(), next.end(), now.begin(), now.end(), std::back_inserter(in));
    std::set_difference(now.begin(), now.end(), next.begin(), next.end(), std::back_inserter(out));
    for (size_t i = 0; i < in.size(); ++i) planned_.push_back({layer, in[i], out[i]});
  }
}

void HotUpdate::shuffle() {
  planned_.clear();
  for (int layer = 0; layer < static_cast<int>(hot_.size()); ++layer) {
    const std::vector<int32_t>& now = hot_[static_cast<size_t>(layer)];
    if (now.empty() || now.size() == static_cast<size_t>(experts_)) continue;
    const auto draw = [&](size_t n) {  // Knuth's MMIX
      random_ = random_ * 6364136223846793005u + 1442695040888963407u;
      return static_cast<size_t>((random_ >> 33) % n);
    };
    int32_t in = static_cast<int32_t>(draw(static_cast<size_t>(experts_)));
    while (contains(now, in)) in = (in + 1) % experts_;
    planned_.push_back({layer, in, now[draw(now.size())]});
  }
}

std::vector<Exchange> HotUpdate::take(size_t limit) {
  // An expert that leaves one layer and the one that enters another are two entries; they go together.
  size_t count = 0, in = 0;
  while (count < planned_.size() && (in < limit || planned_[count].in < 0)) {
    if (planned_[count].in < 0 && in >= limit) break;
    in += planned_[count++].in >= 0;
  }
  std::vector<Exchange> taken(planned_.begin(), planned_.begin() + static_cast<int64_t>(count));
  planned_.erase(planned_.begin(), planned_.begin() + static_cast<int64_t>(count));
  for (const Exchange& x : taken) apply(x, hot_);
  return taken;
}

}  // namespace kt
