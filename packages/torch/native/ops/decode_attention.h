// Absorbed attention of some rows of one sequence over its blocks of a paged cache:
//
//   S_j = q̂_nh · cache[slot(j)],  j ≤ position_n        found_nh = Σ_j softmax(scale · S)_j cache[slot(j)][:C]
//
// Rows and heads share what they read of the cache. Sums run over positions one by one, so what a row finds does not
// depend on the rows beside it. Computed in float64 over a cache in it, otherwise in float32.
#pragma once

#include <limits>

#include "gemm_bf16.h"

namespace massif {

/// The cache of one layer as one sequence sees it: position j lies in slot blocks[j / block] · block + j % block.
template <class In>
struct Pages {
  In* cache;
  const int32_t* blocks;
  int64_t block, W;
  In* slot(int64_t j) const { return cache + (blocks[j / block] * block + j % block) * W; }
};

constexpr int64_t LOOK_TILE = 128;  // positions gathered at once, where many rows look

/// C[M, cols] += p[M, n] · v[n, cols], v of whole rows `ldv` apart: cols by cols in registers, over n in order.
template <class S, class In, int R>
void add_weighted_rows(int64_t n, const S* p, int64_t ldp, const In* v, int64_t ldv, S* C, int64_t ldc, int64_t cols) {
  constexpr int64_t L = LANES<S>;
  for (int64_t c = 0; c < cols; c += 2 * L) {
    const int64_t first = std::min(L, cols - c), second = std::clamp<int64_t>(cols - c - L, 0, L);
    Vec<S> sum[R][2];
    for (int r = 0; r < R; r++) {
      sum[r][0] = load<S>(C + r * ldc + c, first);
      sum[r][1] = load<S>(C + r * ldc + c + L, second);
    }
    for (int64_t j = 0; j < n; j++) {
      const Vec<S> a = load<S>(v + j * ldv + c, first), b = load<S>(v + j * ldv + c + L, second);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const Vec<S> weight = splat(p[r * ldp + j]);
        sum[r][0] += weight * a;
        sum[r][1] += weight * b;
      }
    }
    for (int r = 0; r < R; r++) {
      store<S>(C + r * ldc + c, sum[r][0], first);
      store<S>(C + r * ldc + c + L, sum[r][1], second);
    }
  }
}

template <class S, class In>
void add_weighted(int64_t M, int64_t n, const S* p, int64_t ldp, const In* v, int64_t ldv, S* C, int64_t ldc, int64_t cols) {
  constexpr int ROWS = Tile<S>::ROWS;
  [&]<int... R>(std::integer_sequence<int, R...>) {
    static constexpr decltype(&add_weighted_rows<S, In, 1>) kernels[] = {add_weighted_rows<S, In, R + 1>...};
    for (int64_t m = 0; m < M; m += ROWS)
      kernels[std::min<int64_t>(ROWS, M - m) - 1](n, p + m * ldp, ldp, v, ldv, C + m * ldc, ldc, cols);
  }(std::make_integer_sequence<int, ROWS>());
}

/// p = softmax(scale · p) of the first n of `length` scores, in place; 0 behind them.
template <class S>
void softmax_scores(int64_t n, int64_t length, S scale, S* p) {
  constexpr int64_t L = LANES<S>;
  const S lowest = -std::numeric_limits<S>::infinity();
  Vec<S> most = splat(lowest), sum = {};
  for (int64_t j = 0; j < n; j += L) most = maximum<S>(most, keep<S>(load<S>(p + j, n - j), n - j, lowest));
  const Vec<S> max = splat(lane_max<S>(most));
  for (int64_t j = 0; j < n; j += L) {
    const Vec<S> e = keep<S>(exp((load<S>(p + j, n - j) - max) * scale), n - j, S(0));
    sum += e;
    store<S>(p + j, e, n - j);
  }
  const S r = 1 / lane_sum<S>(sum);
  for (int64_t j = 0; j < n; j += L) store<S>(p + j, load<S>(p + j, n - j) * r, n - j);
  std::fill(p + n, p + length, S(0));
}

/// Numbers that `look` needs to work in.
inline int64_t look_scratch(int64_t rows, int64_t heads, int64_t seen, int64_t W) { return rows * heads * seen + LOOK_TILE * W; }

/// q̂ [rows · heads, W] → found [rows · heads, C]; the first row stands at `position`, the others behind it.
template <class In, class S = Sum<In>>
void look(const Pages<In>& pages, int64_t rows, int64_t heads, int64_t position, int64_t C, S scale, const S* query, S* found,
          S* scratch) {
  const int64_t M = rows * heads, W = pages.W, seen = position + rows;
  S *p = scratch, *tile = p + M * seen;
  std::fill(found, found + M * C, S(0));
  // f(first position, how many, their rows): in place block by block, or gathered where many rows share the reading.
  const bool many = M > Tile<S>::ROWS;
  const auto each = [&](const auto& f) {
    for (int64_t j = 0; j < seen;) {
      const int64_t n = std::min(many ? LOOK_TILE : pages.block - j % pages.block, seen - j);
      if (!many)
        f(j, n, static_cast<const In*>(pages.slot(j)));
      else {
        for (int64_t i = 0; i < n; i++)
          for (int64_t w = 0; w < W; w += LANES<S>)
            store<S>(tile + i * W + w, load<S>(pages.slot(j + i) + w, W - w), W - w);
        f(j, n, static_cast<const S*>(tile));
      }
      j += n;
    }
  };
  each([&](int64_t j, int64_t n, const auto* at) {
    using From = std::remove_cvref_t<decltype(*at)>;
    multiply<S, S, From>(M, n, W, {query, W}, {at, 1, W}, p + j, seen);
  });
  for (int64_t m = 0; m < M; m++) softmax_scores(position + m / heads + 1, seen, scale, p + m * seen);
  each([&](int64_t j, int64_t n, const auto* at) { add_weighted(M, n, p + j, seen, at, W, found, C, C); });
}

}  // namespace massif
