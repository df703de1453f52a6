#pragma once

#include <map>
#include <string_view>

namespace kt {

// How a step's prompt tokens meet the cold experts: hybrid sends rows to the expert ranks, layerwise brings the experts
// to the trunk ranks.
enum class Path { hybrid, layerwise };

// Chooses the path of a step by the number of its prompt tokens: by a threshold, or by what steps of both kinds took.
// Times are those of whole steps of prompts from position 0: what both paths share does not change which is faster.
class PrefillPath {
 public:
  // threshold 0: always hybrid; -1: by the times.
  explicit PrefillPath(int threshold) : threshold_(threshold) {}

  struct Choice {
    Path path = Path::hybrid;
    std::string_view why;                  // "off", "decode", "below threshold", "threshold", "faster"
    double hybrid_s = 0, layerwise_s = 0;  // estimates, where there are any
  };
  Choice choose(int prefill_rows) const;

  // A step of `rows` prompt tokens took so long. Later times of the same number of rows count a quarter.
  void measured(Path path, int rows, double seconds);
  // Seconds of such a step: between measured sizes by a straight line, beyond them by the nearest one's (but below
  // the smallest, layerwise costs as much as that: most experts are still wanted).
  double estimate(Path path, int rows) const;
  // The fewest rows from which on, up to `most`, layerwise is chosen; 0: it is not chosen for `most`.
  int layerwise_from(int most) const;
  bool automatic() const { return threshold_ < 0; }

 private:
  int threshold_;
  std::map<int, double> times_[2];  // rows -> seconds, ascending
};

}  // namespace kt
