// The router as it decodes (specification §1.10): sigmoid scores, a bias for choosing only, group-limited top-k, and the
// slots (row, j-th expert) brought into the experts' order.
#pragma once

#include <vector>

#include "decode_model.h"

namespace massif {

struct Routing {
  /// Of slot (n, j): its weight, and its place in the experts' order; expert e has places first[e] … first[e + 1] − 1.
  std::vector<float> weight;
  std::vector<int64_t> place, first, busy, next;
  int64_t active = 0;  // experts that have slots: busy[0 … active)

  void reserve(int64_t N, int64_t k, int64_t E) {
    weight.resize(N * k);
    place.resize(N * k);
    first.resize(E + 1);
    busy.resize(E);
    next.resize(E);
  }

  /// The experts and weights of a row from its scores before the sigmoid, which become those after it.
  void choose(const DecodeSizes& n, float* scores, const float* bias, int32_t* chosen, int64_t row) {
    for (int64_t e = 0; e < n.E; e += LANES<float>)
      store<float>(scores + e, sigmoid<float>(load<float>(scores + e, n.E - e)), n.E - e);
    const auto by = [&](int64_t e) { return scores[e] + bias[e]; };
    const int64_t size = n.E / n.groups;
    // Groups count by the sum of their two best.
    const auto group_score = [&](int64_t g) {
      float best = -INFINITY, second = -INFINITY;
      for (int64_t e = g * size; e < (g + 1) * size; e++)
        if (const float s = by(e); s > best)
          second = best, best = s;
        else if (s > second)
          second = s;
      return best + second;
    };
    int32_t open[64];
    const bool grouped = n.groups > 1;
    if (grouped) best_of(n.groups, n.open_groups, group_score, [](int64_t) { return true; }, open);
    const auto is_open = [&](int64_t e) {
      return !grouped || std::find(open, open + n.open_groups, int32_t(e / size)) != open + n.open_groups;
    };
    best_of(n.E, n.k, by, is_open, chosen);
    float sum = 0;
    for (int64_t j = 0; j < n.k; j++) sum += scores[chosen[j]];
    for (int64_t j = 0; j < n.k; j++)
      weight[row * n.k + j] = scores[chosen[j]] / (n.norm_topk ? sum + 1e-20f : 1.0f) * float(n.routed_scale);
  }

  /// Counting sort of all slots.
  void sort(int64_t N, int64_t k, int64_t E, const int32_t* chosen) {
    std::fill(first.begin(), first.end(), 0);
    for (int64_t s = 0; s < N * k; s++) first[chosen[s] + 1]++;
    active = 0;
    for (int64_t e = 0; e < E; e++) {
      if (first[e + 1]) busy[active++] = e;
      first[e + 1] += first[e];
      next[e] = first[e];
    }
    for (int64_t s = 0; s < N * k; s++) place[s] = next[chosen[s]]++;
  }

 private:
  /// The `count` largest of n by score, of those that may come; always that many different ones, also where scores are NaN.
  template <class Score, class May>
  static void best_of(int64_t n, int64_t count, const Score& score, const May& may, int32_t* out) {
    for (int64_t j = 0; j < count; j++) {
      int64_t best = -1;
      float most = 0;
      for (int64_t i = 0; i < n; i++) {
        if (!may(i) || std::find(out, out + j, int32_t(i)) != out + j) continue;
        if (const float s = score(i); best < 0 || s > most) best = i, most = s;
      }
      out[j] = int32_t(best);
    }
  }
};

}  // namespace massif
