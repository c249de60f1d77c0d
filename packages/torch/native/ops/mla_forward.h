// The forward of mla_attention.cc for one head.
#pragma once

#include "mla_tiles.h"

namespace massif::mla {

/// Row s[from, to) of a tile → p: e^(s − m), and zeros elsewhere in `keys`. Updates maximum m and sum l; returns the factor
/// that what was summed before must shrink by. p may be s.
template <class S, class P>
S softmax_row(const S* s, Range seen, Range keys, S& m, S& l, P* p) {
  const auto [from, to] = seen;
  constexpr int64_t L = LANES<S>;
  Vec<S> top = splat(-std::numeric_limits<S>::infinity()), sum = {};
  for (int64_t j = from; j < to; j += L) top = maximum<S>(top, keep<S>(load<S>(s + j), to - j, top[0]));
  const S before = m;
  m = std::max(m, lane_max<S>(top));
  for (int64_t j = from; j < to; j += L) {
    const Vec<S> e = keep<S>(exp(load<S>(s + j) - m), to - j, S(0));
    sum += e;
    store<S>(p + j, e);
  }
  for (int64_t j = keys.from; j < from; j++) p[j] = 0;
  for (int64_t j = std::max(to, keys.from); j < keys.to; j++) p[j] = 0;
  const S shrink = before == m ? S(1) : std::exp(before - m);
  l = l * shrink + lane_sum<S>(sum);
  return shrink;
}

/// out [T, V] with row stride H·V, lse [T], for one (b, h). Returns the maximum of S.
template <class T, class S = Sum<T>>
S forward_head(const Call<T>& c, int64_t b, int64_t h, T* out, S* lse) {
  using P = Panel<T>;
  const Sizes& n = c.n;
  const int64_t K = n.K(), V = n.V, blocks = blocks_of(n.T, KEYS);
  const int64_t keys_size = packed_size<P>(K, KEYS), values_size = packed_size<P>(KEYS, V);
  static thread_local Scratch<P> operands;
  static thread_local Scratch<S> results;
  Cut<P> cut{operands.get(blocks * (keys_size + values_size) + n.T * K + QUERIES * (K + LINE) + 512)};
  Cut<S> sums{results.get(QUERIES * (LINE + V) + 128)};
  const Blocks<P> keys_KT{cut(blocks * keys_size), keys_size}, values_TV{cut(blocks * values_size), values_size};
  P *k_TK = cut(n.T * K), *q_QK = cut(QUERIES * K), *p_QT = cut(QUERIES * LINE);
  S *s_QT = sums(QUERIES * LINE), *o_QV = sums(QUERIES * V);
  if constexpr (std::is_same_v<P, S>) p_QT = s_QT;

  c.read_keys(b, h, k_TK);
  for (int64_t j = 0; j < n.T; j += KEYS) {
    const int64_t width = std::min(KEYS, n.T - j);
    pack<P, P>(K, width, {k_TK + j * K, 1, K}, keys_KT[j]);
    pack<P, T>(width, V, c.values(b, j, h), values_TV[j]);
  }
  S top = -std::numeric_limits<S>::infinity();
  for (int64_t i = 0; i < n.T; i += QUERIES) {
    const int64_t rows = std::min(QUERIES, n.T - i), end = i + rows;
    const Sight sight(c.documents, b, i, end);
    S m[QUERIES], l[QUERIES] = {};
    std::fill_n(m, rows, -std::numeric_limits<S>::infinity());
    std::fill_n(o_QV, rows * V, S(0));
    c.read_queries(b, h, i, end, q_QK);
    for (int64_t j = sight.first() / KEYS * KEYS; j < end; j += KEYS) {
      const Range keys = aligned<P>(sight.keys(j));
      const int64_t size = keys.to - keys.from, packed = std::min(KEYS, n.T - j);
      if (size == 0) continue;
      multiply_packed<P, P>(rows, size, K, {q_QK, K}, keys_KT[j] + packed_size<P>(K, keys.from), s_QT + keys.from, LINE, false,
                            S(n.scale));
      for (int64_t r = 0; r < rows; r++) {
        S* s = s_QT + r * LINE;
        const S shrink = softmax_row(s, c.seen(b, i + r, j, s), keys, m[r], l[r], p_QT + r * LINE);
        if (shrink != 1)
          for (int64_t d = 0; d < V; d++) o_QV[r * V + d] *= shrink;
      }
      multiply_packed<P, P>(rows, V, size, {p_QT + keys.from, LINE}, values_TV[j] + keys.from * Tile<P>::COLS, o_QV, V, true, 1,
                            packed);
    }
    for (int64_t r = 0; r < rows; r++) {
      const S inverse = l[r] == 0 ? S(0) : 1 / l[r];  // a query that sees nothing gives zero
      for (int64_t d = 0; d < V; d++) out[(i + r) * n.H * V + d] = T(o_QV[r * V + d] * inverse);
      lse[i + r] = m[r] + std::log(l[r]);
      top = l[r] != l[r] ? l[r] : std::max(top, m[r]);  // a NaN anywhere shows in the maximum
    }
  }
  return top;
}

}  // namespace massif::mla
