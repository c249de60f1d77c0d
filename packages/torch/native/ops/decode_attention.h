// Absorbed attention of some rows of one sequence over its blocks of a paged cache:
//
//   S_j = q̂_nh · cache[slot(j)],  j ≤ position_n        found_nh = Σ_j softmax(scale · S)_j cache[slot(j)][:C]
//
// Rows and heads share what they read of the cache. Sums run over positions one by one, so what a row finds does not
// depend on the rows beside it.
#pragma once

#include <limits>

#include "gemm.h"

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
template <class In, int R>
void add_weighted_rows(int64_t n, const float* p, int64_t ldp, const In* v, int64_t ldv, float* C, int64_t ldc, int64_t cols) {
  constexpr int64_t L = LANES<float>;
  for (int64_t c = 0; c < cols; c += 2 * L) {
    const int64_t first = std::min(L, cols - c), second = std::clamp<int64_t>(cols - c - L, 0, L);
    Vec<float> sum[R][2];
    for (int r = 0; r < R; r++) {
      sum[r][0] = load<float>(C + r * ldc + c, first);
      sum[r][1] = load<float>(C + r * ldc + c + L, second);
    }
    for (int64_t j = 0; j < n; j++) {
      const Vec<float> a = load<float>(v + j * ldv + c, first), b = load<float>(v + j * ldv + c + L, second);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        const Vec<float> weight = splat(p[r * ldp + j]);
        sum[r][0] += weight * a;
        sum[r][1] += weight * b;
      }
    }
    for (int r = 0; r < R; r++) {
      store<float>(C + r * ldc + c, sum[r][0], first);
      store<float>(C + r * ldc + c + L, sum[r][1], second);
    }
  }
}

template <class In>
void add_weighted(int64_t M, int64_t n, const float* p, int64_t ldp, const In* v, int64_t ldv, float* C, int64_t ldc,
                  int64_t cols) {
  constexpr int ROWS = Tile<float>::ROWS;
  [&]<int... R>(std::integer_sequence<int, R...>) {
    static constexpr decltype(&add_weighted_rows<In, 1>) kernels[] = {add_weighted_rows<In, R + 1>...};
    for (int64_t m = 0; m < M; m += ROWS)
      kernels[std::min<int64_t>(ROWS, M - m) - 1](n, p + m * ldp, ldp, v, ldv, C + m * ldc, ldc, cols);
  }(std::make_integer_sequence<int, ROWS>());
}

/// p = softmax(scale · p) of the first n of `length` scores, in place; 0 behind them.
inline void softmax_scores(int64_t n, int64_t length, float scale, float* p) {
  constexpr int64_t L = LANES<float>;
  const float lowest = -std::numeric_limits<float>::infinity();
  Vec<float> most = splat(lowest), sum = {};
  for (int64_t j = 0; j < n; j += L) most = maximum<float>(most, keep<float>(load<float>(p + j, n - j), n - j, lowest));
  const Vec<float> max = splat(lane_max<float>(most));
  for (int64_t j = 0; j < n; j += L) {
    const Vec<float> e = keep<float>(exp((load<float>(p + j, n - j) - max) * scale), n - j, 0.0f);
    sum += e;
    store<float>(p + j, e, n - j);
  }
  const float r = 1.0f / lane_sum<float>(sum);
  for (int64_t j = 0; j < n; j += L) store<float>(p + j, load<float>(p + j, n - j) * r, n - j);
  std::fill(p + n, p + length, 0.0f);
}

/// Floats that `look` needs to work in.
inline int64_t look_scratch(int64_t rows, int64_t heads, int64_t seen, int64_t W) { return rows * heads * seen + LOOK_TILE * W; }

/// q̂ [rows · heads, W] → found [rows · heads, C]; the first row stands at `position`, the others behind it.
template <class In>
void look(const Pages<In>& pages, int64_t rows, int64_t heads, int64_t position, int64_t C, float scale, const float* query,
          float* found, float* scratch) {
  const int64_t M = rows * heads, W = pages.W, seen = position + rows;
  float *p = scratch, *tile = p + M * seen;
  std::fill(found, found + M * C, 0.0f);
  // f(first position, how many, their rows): in place block by block, or gathered where many rows share the reading.
  const bool many = M > Tile<float>::ROWS;
  const auto each = [&](const auto& f) {
    for (int64_t j = 0; j < seen;) {
      const int64_t n = std::min(many ? LOOK_TILE : pages.block - j % pages.block, seen - j);
      if (!many)
        f(j, n, static_cast<const In*>(pages.slot(j)));
      else {
        for (int64_t i = 0; i < n; i++)
          for (int64_t w = 0; w < W; w += LANES<float>)
            store<float>(tile + i * W + w, load<float>(pages.slot(j + i) + w, W - w), W - w);
        f(j, n, static_cast<const float*>(tile));
      }
      j += n;
    }
  };
  each([&](int64_t j, int64_t n, const auto* at) {
    using From = std::remove_cvref_t<decltype(*at)>;
    multiply<float, float, From>(M, n, W, {query, W}, {at, 1, W}, p + j, seen);
  });
  for (int64_t m = 0; m < M; m++) softmax_scores(position + m / heads + 1, seen, scale, p + m * seen);
  each([&](int64_t j, int64_t n, const auto* at) { add_weighted(M, n, p + j, seen, at, W, found, C, C); });
}

}  // namespace massif
