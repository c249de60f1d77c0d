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

/// Positions [from, to).
struct Range {
  int64_t from, to;
  bool empty() const { return from >= to; }
  /// What of it lies in [begin, begin + size), counted from there.
  Range within(int64_t begin, int64_t size) const {
    const Range cut{std::max(from - begin, int64_t(0)), std::min(to - begin, size)};
    return cut.empty() ? Range{0, 0} : cut;
  }
  Range joined(Range other) const {
    if (empty()) return other;
    return other.empty() ? *this : Range{std::min(from, other.from), std::max(to, other.to)};
  }
};

/// What position t of row b sees: its document up to itself, and the stretch before it that its document shares.
struct Documents {
  int64_t T;
  const int32_t* start;   // [B, T]; null: one document a row
  const int32_t* shared;  // [B, T, 2] from and to; null: none shares
  Range own(int64_t b, int64_t t) const {
    return {start ? std::clamp<int64_t>(start[b * T + t], 0, t) : 0, t + 1};  // itself in any case
  }
  Range prefix(int64_t b, int64_t t) const {
    if (!shared) return {0, 0};
    const int32_t* s = shared + (b * T + t) * 2;
    return {std::max(s[0], 0), std::min<int64_t>(s[1], own(b, t).from)};
  }
  /// Its place in the document, which begins with what it shares.
  int64_t position(int64_t b, int64_t t) const {
    const Range before = prefix(b, t);
    return t - own(b, t).from + (before.empty() ? 0 : before.to - before.from);
  }
};

/// What some query of a tile [from, to) sees.
struct Sight {
  Range own{0, 0}, prefix{0, 0};
  Sight(const Documents& d, int64_t b, int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++) own = own.joined(d.own(b, t)), prefix = prefix.joined(d.prefix(b, t));
  }
  int64_t first() const { return own.joined(prefix).from; }
  /// Of the keys [j, j + KEYS).
  Range keys(int64_t j) const { return own.within(j, KEYS).joined(prefix.within(j, KEYS)); }
};

/// From the start of a panel on: what products take of packed keys.
template <class P>
Range aligned(Range keys) {
  return {keys.from / Tile<P>::COLS * Tile<P>::COLS, keys.to};
}

/// Pointers of one call. k_pe is rotated already. S is the type of sums, P what products read.
template <class T>
struct Call {
  using S = Sum<T>;
  using P = Panel<T>;
  Sizes n;
  const T *q, *kv;
  const S *k_pe, *cos, *sin;
  Documents documents;

  const T* query(int64_t b, int64_t t, int64_t h) const { return q + ((b * n.T + t) * n.H + h) * n.K(); }
  Mat<const T> values(int64_t b, int64_t t, int64_t h) const {
    return {kv + ((b * n.T + t) * n.H + h) * n.X() + n.nope, n.H * n.X()};
  }
  int64_t angle(int64_t b, int64_t t) const { return documents.position(b, t) * n.rope / 2; }
  /// What query t sees of the scores s of keys [j, j + KEYS); those between its prefix and its document are taken away.
  Range seen(int64_t b, int64_t t, int64_t j, S* s) const {
    const Range own = documents.own(b, t).within(j, KEYS), prefix = documents.prefix(b, t).within(j, KEYS);
    if (!own.empty() && !prefix.empty()) std::fill(s + prefix.to, s + own.from, -std::numeric_limits<S>::infinity());
    return prefix.joined(own);
  }
  /// Queries from … to − 1 of one head, rotated: [to − from, K].
  void read_queries(int64_t b, int64_t h, int64_t from, int64_t to, P* out) const {
    for (int64_t t = from; t < to; t++, out += n.K()) {
      const T* x = query(b, t, h);
      for (int64_t d = 0; d < n.nope; d++) out[d] = P(x[d]);
      rotate(n.rope, x + n.nope, cos + angle(b, t), sin + angle(b, t), false, out + n.nope);
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
