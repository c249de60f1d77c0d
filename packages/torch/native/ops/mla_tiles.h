// What the forward and the backward of mla_attention.cc share: sizes, tiles, rotation, and how rows are read.
#pragma once

#include "op.h"

#include <limits>

namespace massif::mla {

constexpr int64_t QUERIES = 48, KEYS = 256;
constexpr int64_t LINE = KEYS + 16;  // row stride of a tile: off the power of two, so rows do not share cache sets

struct Sizes {
  int64_t B, T, H, nope, rope, V;
  double scale;
  int64_t K() const { return nope + rope; }
  int64_t X() const { return nope + V; }
};

/// y = R_t x (or its transpose): pairs (2r, 2r + 1). y may be x.
template <class In, class Out, class S>
void rotate(int64_t R, const In* x, const S* cos, const S* sin, bool transposed, Out* y) {
  for (int64_t r = 0; r < R / 2; r++) {
    const S a = x[2 * r], b = x[2 * r + 1], c = cos[r], s = transposed ? -sin[r] : sin[r];
    y[2 * r] = Out(a * c - b * s);
    y[2 * r + 1] = Out(a * s + b * c);
  }
}

/// Pointers of one call. k_pe is rotated already. S is the type of sums, P what products read.
template <class T>
struct Call {
  using S = Sum<T>;
  using P = Panel<T>;
  Sizes n;
  const T *q, *kv;
  const S *k_pe, *cos, *sin;
  const int32_t* doc_start;  // null: one document a row

  const T* query(int64_t b, int64_t t, int64_t h) const { return q + ((b * n.T + t) * n.H + h) * n.K(); }
  Mat<const T> values(int64_t b, int64_t t, int64_t h) const {
    return {kv + ((b * n.T + t) * n.H + h) * n.X() + n.nope, n.H * n.X()};
  }
  int64_t first_key(int64_t b, int64_t t) const {
    return doc_start ? std::clamp<int64_t>(doc_start[b * n.T + t], 0, t + 1) : 0;
  }
  int64_t first_key(int64_t b, int64_t from, int64_t to) const {
    int64_t first = to;
    for (int64_t t = from; t < to; t++) first = std::min(first, first_key(b, t));
    return first;
  }
  /// Queries from … to − 1 of one head, rotated: [to − from, K].
  void read_queries(int64_t b, int64_t h, int64_t from, int64_t to, P* out) const {
    for (int64_t t = from; t < to; t++, out += n.K()) {
      const T* x = query(b, t, h);
      for (int64_t d = 0; d < n.nope; d++) out[d] = P(x[d]);
      rotate(n.rope, x + n.nope, cos + t * n.rope / 2, sin + t * n.rope / 2, false, out + n.nope);
    }
  }
  /// All keys of one head: [T, K].
  void read_keys(int64_t b, int64_t h, P* out) const {
    for (int64_t t = 0; t < n.T; t++, out += n.K()) {
      const T* x = kv + ((b * n.T + t) * n.H + h) * n.X();
      const S* turned = k_pe + (b * n.T + t) * n.rope;
      for (int64_t d = 0; d < n.nope; d++) out[d] = P(x[d]);
      for (int64_t d = 0; d < n.rope; d++) out[n.nope + d] = P(turned[d]);
    }
  }
};

/// A matrix [K, N] packed block by block along `T`: block i of KEYS starts at i · stride.
template <class P>
struct Blocks {
  P* at;
  int64_t stride;
  P* operator[](int64_t first) const { return at + first / KEYS * stride; }
};

/// Cuts one allocation into arrays that start on cache lines.
template <class E>
struct Cut {
  E* at;
  static int64_t round(int64_t n) { return (n + 63) / 64 * 64; }
  E* operator()(int64_t n) { return std::exchange(at, at + round(n)); }
};

}  // namespace massif::mla
