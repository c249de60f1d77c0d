// Vectors of the widest registers this build may use, in the compiler's own vector types (GCC and Clang):
// AVX-512, AVX, SSE and NEON from one source. Arithmetic is written with operators; loops over them need no intrinsics.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace massif {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, VECTOR_REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, VECTOR_REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, VECTOR_REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, VECTOR_REGISTERS = 16;
#endif

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T>
using Vec = typename VecOf<T>::type;
typedef uint16_t HalfWords __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef uint32_t Words __attribute__((vector_size(VECTOR_BYTES)));
template <class T>
constexpr int64_t LANES = VECTOR_BYTES / int64_t(sizeof(T));

// bfloat16 is the upper half of a float; rounded to the nearest, ties to even, NaN kept.
inline Vec<float> widen(HalfWords half) {
  const Words bits = __builtin_convertvector(half, Words) << 16;
  Vec<float> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
inline HalfWords narrow(Vec<float> v) {
#if defined(__AVX512BF16__)
  return (HalfWords)_mm512_cvtneps_pbh(v);  // the same, but that numbers below 2⁻¹²⁶ become zero
#else
  Words bits;
  std::memcpy(&bits, &v, sizeof bits);
  const Words rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return __builtin_convertvector((v == v ? rounded : bits | 0x400000) >> 16, HalfWords);
#endif
}

/// n ≤ LANES<T> consecutive elements, widened to T; lanes past n are zero.
template <class T, class In>
inline Vec<T> load(const In* p, int64_t n = LANES<T>) {
  constexpr int64_t L = LANES<T>;
  if constexpr (std::is_same_v<T, In>) {
    Vec<T> v = {};
    if (n >= L)
      std::memcpy(&v, p, sizeof v);
    else
      std::memcpy(&v, p, n * sizeof(T));
    return v;
  } else if constexpr (std::is_same_v<In, c10::BFloat16> && std::is_same_v<T, float>) {
    HalfWords half = {};
    if (n >= L)
      std::memcpy(&half, p, sizeof half);
    else
      std::memcpy(&half, p, n * sizeof(In));
    return widen(half);
  } else {
    Vec<T> v = {};
    for (int64_t i = 0; i < std::min(n, L); i++) v[i] = T(p[i]);
    return v;
  }
}

/// The first n ≤ LANES<T> lanes, rounded to Out.
template <class T, class Out>
inline void store(Out* p, Vec<T> v, int64_t n = LANES<T>) {
  constexpr int64_t L = LANES<T>;
  if constexpr (std::is_same_v<T, Out>) {
    if (n >= L)
      std::memcpy(p, &v, sizeof v);
    else
      std::memcpy(p, &v, n * sizeof(T));
  } else if constexpr (std::is_same_v<Out, c10::BFloat16> && std::is_same_v<T, float>) {
    const HalfWords half = narrow(v);
    if (n >= L)
      std::memcpy(p, &half, sizeof half);
    else
      std::memcpy(p, &half, n * sizeof(Out));
  } else {
    for (int64_t i = 0; i < std::min(n, L); i++) p[i] = Out(v[i]);
  }
}

template <class T>
inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

/// Sum and maximum of the lanes, halving: the order is fixed.
template <class T>
inline T lane_sum(Vec<T> v) {
  T x[LANES<T>];
  std::memcpy(x, &v, sizeof v);
  for (int64_t half = LANES<T> / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; i++) x[i] += x[i + half];
  return x[0];
}
template <class T>
inline T lane_max(Vec<T> v) {
  T x[LANES<T>];
  std::memcpy(x, &v, sizeof v);
  for (int64_t half = LANES<T> / 2; half > 0; half /= 2)
    for (int64_t i = 0; i < half; i++) x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
  return x[0];
}

template <class T>
inline Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

/// The first n lanes of v; `otherwise` in the lanes past them.
template <class T>
inline Vec<T> keep(Vec<T> v, int64_t n, T otherwise) {
  if (n >= LANES<T>) return v;
  Vec<T> lane;
  for (int i = 0; i < LANES<T>; i++) lane[i] = T(i);
  return lane < T(n) ? v : splat(otherwise);
}

/// eˣ. float: 2ⁿ·p(r), |r| ≤ ln 2 / 2, p of degree 6 (Cephes expf, error below 2 ulp); 0 below −87.3, largest at 88.
inline Vec<float> exp(Vec<float> x) {
  const Vec<float> lowest = splat(-87.3f), highest = splat(88.0f), magic = splat(12582912.0f);  // 1.5·2²³ rounds
  const auto under = x < lowest;
  x = under ? lowest : x;
  x = x > highest ? highest : x;
  const Vec<float> n = (x * 1.44269504f + magic) - magic;
  const Vec<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  typedef int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));
  const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return under ? Vec<float>{} : p * scale;
}
/// double: p is Taylor's of degree 13 (error below 2 ulp); 0 below −708, largest at 709.
inline Vec<double> exp(Vec<double> x) {
  const Vec<double> lowest = splat(-708.0), highest = splat(709.0), magic = splat(6755399441055744.0);  // 1.5·2⁵² rounds
  const auto under = x < lowest;
  x = under ? lowest : x;
  x = x > highest ? highest : x;
  const Vec<double> shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
  const Vec<double> r = (x - n * 6.93147180369123816490e-1) - n * 1.90821492927058770002e-10;
  Vec<double> p = splat(1.0 / 6227020800);
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 1.0 / 2;
  p = p * (r * r) + r + 1.0;
  typedef int64_t Longs __attribute__((vector_size(VECTOR_BYTES)));
  Longs power;  // n stands in the lowest bits of what was shifted
  std::memcpy(&power, &shifted, sizeof power);
  power = (power + 1023) << 52;
  Vec<double> scale;
  std::memcpy(&scale, &power, sizeof scale);
  return under ? Vec<double>{} : p * scale;
}

/// σ(x) = 1 / (1 + e⁻ˣ).
template <class T>
inline Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exp(-x));
}

#if !defined(__clang__)  // its shuffles want literal indices
/// Exchanges the vectors i and i + half of a block for picks from the two joined: element j of the first is
/// `pick(j)`, of the second `pick(j) + apart`.
template <class T, class Pick>
inline void exchange(Vec<T>* block, int half, int apart, Pick pick) {
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index;
  typedef Index Indices __attribute__((vector_size(VECTOR_BYTES)));
  [&]<int... j>(std::integer_sequence<int, j...>) {
    const Indices first = {pick(j)...}, second = {pick(j) + apart...};
#pragma GCC unroll 16
    for (int p = 0; p < LANES<T> / 2; p++) {
      const int i = p / half * 2 * half + p % half;
      const Vec<T> a = block[i], b = block[i + half];
      block[i] = __builtin_shuffle(a, b, first);
      block[i + half] = __builtin_shuffle(a, b, second);
    }
  }(std::make_integer_sequence<int, LANES<T>>());
}
#endif

/// An L × L block held in L vectors, transposed in place: log2 L rounds, first within 128-bit lanes, then of whole
/// lanes. Such shuffles are one instruction each and need no indices in registers.
template <class T>
inline void transpose(Vec<T>* block) {
  constexpr int L = LANES<T>, E = 16 / sizeof(T);
#if defined(__clang__)
  T a[L][L], b[L][L];
  std::memcpy(a, block, sizeof a);
  for (int i = 0; i < L; i++)
    for (int j = 0; j < L; j++) b[j][i] = a[i][j];
  std::memcpy(block, b, sizeof b);
#else
#pragma GCC unroll 4
  for (int half = E / 2; half > 0; half /= 2)  // interleaves the lower, and the upper, halves of lanes
    exchange<T>(block, half, E / 2, [](int j) { return j / E * E + j % E / 2 + j % 2 * L; });
#pragma GCC unroll 4
  for (int half = E; half < L; half *= 2)  // the even lanes, and the odd ones
    exchange<T>(block, half, E, [](int j) { return j / E * 2 * E + j % E; });
#endif
}

/// Memory that grows and is kept: an operator called every step must not page-fault every step.
template <class T>
class Scratch {
 public:
  T* get(int64_t n) {
    if (n > size_) {
      size_ = n + n / 2;
      const size_t bytes = (size_t(size_) * sizeof(T) + 4095) / 4096 * 4096;
      data_.reset(static_cast<T*>(std::aligned_alloc(4096, bytes)));
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

}  // namespace massif
