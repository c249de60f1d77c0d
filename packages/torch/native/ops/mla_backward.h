// The backward of mla_attention.cc for one head.
#pragma once

#include "mla_tiles.h"

namespace massif::mla {

/// From g = d out: dq and dkv like q and kv, and this head's share of d k_pe, still rotated: [T, R].
template <class T, class S = Sum<T>>
void backward_head(const Call<T>& c, int64_t b, int64_t h, const T* out, const S* lse, const T* g, T* dq, T* dkv,
                   S* dk_pe) {
  using P = Panel<T>;
  const Sizes& n = c.n;
  const int64_t K = n.K(), V = n.V, HV = n.H * V, blocks = blocks_of(n.T, KEYS);
  const int64_t keys_size = packed_size<P>(K, KEYS), rows_size = packed_size<P>(KEYS, K);
  const int64_t values_size = packed_size<P>(V, KEYS);
  const int64_t q_size = packed_size<P>(QUERIES, K), g_size = packed_size<P>(QUERIES, V);
  static thread_local Scratch<P> operands;
  static thread_local Scratch<S> results;
  Cut<P> cut{operands.get(blocks * (keys_size + rows_size + values_size) + n.T * K + QUERIES * (K + 2 * LINE) + q_size +
                          g_size + 1024)};
  Cut<S> sums{results.get(n.T * (K + V) + QUERIES * (K + 2 * LINE) + 512)};
  const Blocks<P> keys_KT{cut(blocks * keys_size), keys_size}, keys_TK{cut(blocks * rows_size), rows_size};
  const Blocks<P> values_VT{cut(blocks * values_size), values_size};
  P *k_TK = cut(n.T * K), *q_QK = cut(QUERIES * K), *q_packed = cut(q_size), *g_packed = cut(g_size);
  P *p_QT = cut(QUERIES * LINE), *ds_QT = cut(QUERIES * LINE);
  S *dk_TK = sums(n.T * K), *dv_TV = sums(n.T * V), *dq_QK = sums(QUERIES * K);
  S *s_QT = sums(QUERIES * LINE), *dp_QT = sums(QUERIES * LINE);
  if constexpr (std::is_same_v<P, S>) p_QT = s_QT, ds_QT = dp_QT;

  c.read_keys(b, h, k_TK);
  for (int64_t j = 0; j < n.T; j += KEYS) {
    const int64_t width = std::min(KEYS, n.T - j);
    pack<P, P>(K, width, {k_TK + j * K, 1, K}, keys_KT[j]);
    pack<P, P>(width, K, {k_TK + j * K, K}, keys_TK[j]);
    pack<P, T>(V, width, c.values(b, j, h).t(), values_VT[j]);
  }
  std::fill_n(dk_TK, n.T * K, S(0));
  std::fill_n(dv_TV, n.T * V, S(0));
  for (int64_t i = 0; i < n.T; i += QUERIES) {
    const int64_t rows = std::min(QUERIES, n.T - i), end = i + rows;
    const Sight sight(c.documents, b, i, end);
    const Mat<const T> g_QV{g + i * HV, HV};
    S dot[QUERIES];  // g_i · out_i
    for (int64_t r = 0; r < rows; r++) {
      Vec<S> sum = {};
      for (int64_t d = 0; d < V; d += LANES<S>)
        sum += load<S>(g_QV.at + r * HV + d, V - d) * load<S>(out + (i + r) * HV + d, V - d);
      dot[r] = lane_sum<S>(sum);
    }
    c.read_queries(b, h, i, end, q_QK);
    pack<P, P>(rows, K, {q_QK, K}, q_packed);
    pack<P, T>(rows, V, g_QV, g_packed);
    std::fill_n(dq_QK, rows * K, S(0));
    for (int64_t j = sight.first() / KEYS * KEYS; j < end; j += KEYS) {
      const Range keys = aligned<P>(sight.keys(j));
      const int64_t size = keys.to - keys.from, packed = std::min(KEYS, n.T - j);
      if (size == 0) continue;
      multiply_packed<P, P>(rows, size, K, {q_QK, K}, keys_KT[j] + packed_size<P>(K, keys.from), s_QT + keys.from, LINE, false,
                            S(n.scale));
      multiply_packed<P, T>(rows, size, V, g_QV, values_VT[j] + packed_size<P>(V, keys.from), dp_QT + keys.from, LINE);
      for (int64_t r = 0; r < rows; r++) {
        S *s = s_QT + r * LINE, *dp = dp_QT + r * LINE;
        P *p = p_QT + r * LINE, *ds = ds_QT + r * LINE;
        const auto [from, to] = c.seen(b, i + r, j, s);
        for (int64_t t = from; t < to; t += LANES<S>) {
          const Vec<S> e = keep<S>(exp(load<S>(s + t) - lse[i + r]), to - t, S(0));
          store<S>(p + t, e);
          store<S>(ds + t, keep<S>(e * (load<S>(dp + t) - dot[r]) * S(n.scale), to - t, S(0)));
        }
        for (P* x : {p, ds}) {
          std::fill(x + keys.from, x + std::max(from, keys.from), P(0));
          std::fill(x + std::max(to, keys.from), x + std::max(to, keys.to), P(0));
        }
      }
      const Mat<const P> p_TQ{p_QT + keys.from, 1, LINE}, ds_TQ{ds_QT + keys.from, 1, LINE};
      multiply_packed<P, P>(size, V, rows, p_TQ, g_packed, dv_TV + (j + keys.from) * V, V, true);
      multiply_packed<P, P>(size, K, rows, ds_TQ, q_packed, dk_TK + (j + keys.from) * K, K, true);
      multiply_packed<P, P>(rows, K, size, {ds_QT + keys.from, LINE}, keys_TK[j] + keys.from * Tile<P>::COLS, dq_QK, K, true, 1,
                            packed);
    }
    for (int64_t r = 0; r < rows; r++) {
      T* x = dq + (c.query(b, i + r, h) - c.q);
      const int64_t angle = c.angle(b, i + r);
      for (int64_t d = 0; d < n.nope; d++) x[d] = T(dq_QK[r * K + d]);
      rotate(n.rope, dq_QK + r * K + n.nope, c.cos + angle, c.sin + angle, true, x + n.nope);
    }
  }
  for (int64_t t = 0; t < n.T; t++) {
    T* x = dkv + ((b * n.T + t) * n.H + h) * n.X();
    for (int64_t d = 0; d < n.nope; d++) x[d] = T(dk_TK[t * K + d]);
    for (int64_t d = 0; d < V; d++) x[n.nope + d] = T(dv_TV[t * V + d]);
    std::copy_n(dk_TK + t * K + n.nope, n.rope, dk_pe + t * n.rope);
  }
}

}  // namespace massif::mla
