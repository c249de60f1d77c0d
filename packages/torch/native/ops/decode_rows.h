// What the phases of massif::decode_step work with: rows of activations, where new rows stand, products shared out to a team.
#pragma once

#include "decode_model.h"
#include "op.h"
#include "team.h"

namespace massif {

/// New rows of one sequence: rows [row, row + T) stand at `start` and behind it; logits of the last `wanted` of them.
struct Stretch {
  int64_t row, T, start, wanted;
  const int32_t* blocks;
};

/// Activations of all rows, and beside them rounded pairs where the weights are narrow.
template <class T>
struct RowsOf {
  T* at = nullptr;
  Pair* pairs = nullptr;
  int64_t width = 0;
  T* row(int64_t i) const { return at + i * width; }
  Operand operand(int64_t i = 0, int64_t column = 0) const { return {row(i) + column, pairs + (i * width + column) / 2, width}; }
  void round(int64_t i, int64_t from, int64_t count) const {
    if constexpr (std::is_same_v<T, float>)
      if (pairs) round_row(count, row(i) + from, pairs + (i * width + from) / 2);
  }
};
using Rows = RowsOf<float>;

/// One product of a phase: M rows of x by w, to columns `column` … of rows `row` … of y.
struct Job {
  Matrix w;
  int64_t M;
  Operand x;
  Rows y;
  int64_t row = 0, column = 0;
  bool add = false;
};

/// All panels of `count` products, shared out; their weights begin at `weights`.
template <class F>
void products(Team& team, const char* weights, int64_t count, const F& job) {
  int64_t panels = 0;
  for (int64_t i = 0; i < count; i++) panels += job(i).w.panels();
  team.share(panels, [&](int64_t from, int64_t to) {
    int64_t begin = 0;
    for (int64_t i = 0; i < count && begin < to; i++) {
      const Job j = job(i);
      const int64_t end = begin + j.w.panels(), first = std::max(from, begin) - begin, after = std::min(to, end) - begin;
      begin = end;
      if (first >= after || j.M == 0) continue;
      multiply_range(j.w, weights, first, after, j.M, j.x, j.y.row(j.row) + j.column, j.y.width, j.add);
      for (int64_t r = 0; r < j.M; r++)
        j.y.round(j.row + r, j.column + first * COLS, std::min(after * COLS, j.w.N) - first * COLS);
    }
  });
}

/// y_d = w_d · x_d / √(mean x² + ε)
inline void norm(int64_t D, const float* x, const float* w, double eps, float* y) {
  constexpr int64_t L = LANES<float>;
  Vec<float> squares = {};
  for (int64_t d = 0; d < D; d += L) {
    const Vec<float> v = load<float>(x + d, D - d);
    squares += v * v;
  }
  const float r = 1 / std::sqrt(lane_sum<float>(squares) / float(D) + float(eps));
  for (int64_t d = 0; d < D; d += L) store<float>(y + d, load<float>(x + d, D - d) * r * load<float>(w + d, D - d), D - d);
}

/// Row i of the residual stream, normed by the model's weights at `weight`, to row i of h.
inline void norm_row(const DecodeModel& model, const Rows& x, int64_t i, int64_t weight, const Rows& h) {
  norm(model.n.D, x.row(i), model.vector(weight), model.n.eps, h.row(i));
  h.round(i, 0, model.n.D);
}

/// Memory of a step: every buffer of it, one after the other.
class Arena {
 public:
  explicit Arena(bool narrow) : narrow_(narrow) {}
  template <class T = float>
  RowsOf<T> rows(int64_t N, int64_t width) {
    return {array<T>(N * width), narrow_ ? array<Pair>((N * width + 1) / 2) : nullptr, width};
  }
  template <class T>
  T* array(int64_t n) {
    const int64_t at = size_;
    size_ += blocks_of(n * sizeof(T), LINE) * LINE;
    return reinterpret_cast<T*>(base_ + at);
  }
  /// Lays out once to know the size, and again in memory of it.
  template <class F>
  void plan(const F& layout) {
    layout();
    static thread_local Scratch<char> scratch;
    base_ = scratch.get(size_);
    size_ = 0;
    layout();
  }

 private:
  static constexpr int64_t LINE = 128;
  bool narrow_;
  char* base_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace massif
