// Weights packed once for many products with few rows: y[M,N] = x[M,K]·Wᵀ (+ y).
//
// A panel is COLS outputs, in it k runs slowest, so a product reads it from end to end:
//   float32    [K][COLS]
//   float64    two of [K][COLS / 2], as gemm.h packs and multiplies them
//   bfloat16   [K/2][COLS] pairs along k, as vdpbf16ps takes them
//   int4       [K/32] groups of { scale bfloat16 [COLS], words [4][COLS] }: w = scale · (nibble − 8). A word is eight k of a
//              column, its lower half the even ones: any of its four pairs is a shift away from the lowest nibbles of both
//              halves. Whole numbers are exact in bfloat16; a group's sum is scaled in float32.
// x comes as floats, or rounded to pairs of bfloat16. Sums run over k in one order, so a row's result depends neither on
// the other rows nor on how panels are shared out.
#pragma once

#include "gemm.h"

#if defined(__AVX512BF16__) || defined(__AVX512BW__)
#include <immintrin.h>
#endif

namespace massif {

enum class Format : int64_t { float32, bfloat16, int4, float64 };

/// Two bfloat16, the first in the lower half.
using Pair = uint32_t;

constexpr int64_t COLS = Tile<float>::COLS, GROUP = 32;

/// Where a packed matrix lies, in bytes from the beginning of what holds it. Those of equal shape follow one another.
struct Matrix {
  Format format;
  int64_t N, K, at;

  int64_t panels() const { return (N + COLS - 1) / COLS; }
  int64_t panel_bytes() const {
    switch (format) {
      case Format::float32: return K * COLS * 4;
      case Format::float64: return K * COLS * 8;
      case Format::bfloat16: return (K + 1) / 2 * COLS * 4;
      default: return K / GROUP * COLS * (2 + GROUP / 2);
    }
  }
  int64_t bytes() const { return panels() * panel_bytes(); }
  Matrix nth(int64_t i) const { return {format, N, K, at + i * bytes()}; }
};

/// Rows of x, in the form that the weights' format takes.
struct Operand {
  const float* floats = nullptr;
  const Pair* pairs = nullptr;
  int64_t ld = 0;  // from row to row, in floats; pairs are half as far apart
  Operand from(int64_t row) const { return {floats + row * ld, pairs + row * ld / 2, ld}; }
};

/// Rounds K floats (an even number) to pairs.
inline void round_row(int64_t K, const float* x, Pair* pairs) {
  auto* out = reinterpret_cast<c10::BFloat16*>(pairs);
  for (int64_t k = 0; k < K; k += LANES<float>) store<float>(out + k, load<float>(x + k, K - k), K - k);
}

inline Vec<float> as_floats(Words bits) {
  Vec<float> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

/// sum + x · w of pairs.
inline Vec<float> dot(Vec<float> sum, Words x, Words w) {
#if defined(__AVX512BF16__)
  return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
#else
  sum += as_floats(x & 0xffff0000u) * as_floats(w & 0xffff0000u);
  return sum + as_floats(x << 16) * as_floats(w << 16);
#endif
}

inline Words load_words(const char* at) {
  Words w;
  std::memcpy(&w, at, sizeof w);
  return w;
}

/// The lowest nibble of each half of a word → a pair of the whole numbers −8 … 7. The bits above are whatever they are.
inline Words whole_numbers(Words nibbles) {
#if defined(__AVX512BW__)
  // Twice the sixteen: an index has five bits.
  alignas(64) static constexpr uint16_t values[32] = {
      0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0,
      0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
  return (Words)_mm512_permutexvar_epi16((__m512i)nibbles, _mm512_load_si512(values));
#else
  const auto bits = [](Words nibble) {
    const Vec<float> value = __builtin_convertvector(nibble & 15, Vec<float>) - 8.0f;
    Words out;
    std::memcpy(&out, &value, sizeof out);
    return out;
  };
  return bits(nibbles) >> 16 | bits(nibbles >> 16);
#endif
}

/// Sums held in registers, and rows of x they are for. int4's are a group's: of the whole ones, which it needs once a
/// group, some wait in the first cache.
constexpr int SUMS = VECTOR_REGISTERS >= 32 ? 24 : 12;
constexpr int rows_a_tile(Format format) { return format == Format::int4 ? SUMS / 3 : SUMS / 2; }
/// Panels at once: few rows alone would wait for one another's sums.
constexpr int panels_a_tile(Format format, int rows) { return std::clamp(rows_a_tile(format) / rows, 1, 4); }

/// y[R, cols] (+)= x[R] · P panels `apart` bytes from one another, steps [from, to) of k (floats, pairs or groups).
template <Format F, int R, int P>
void multiply_panels(int64_t from, int64_t to, Operand x, const char* panel, int64_t apart, bool add, float* y, int64_t ldy,
                     int64_t cols) {
  constexpr int64_t L = LANES<float>;
  const auto each = [&](const auto& vector_of, const auto& use) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int j = 0; j < 2 * P; j++) {
      const auto w = vector_of(panel + j / 2 * apart, j % 2);
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) use(r, j, w);
    }
  };
  // In float32 sums are gemm.h's: of DEPTH terms, then of these.
  const int64_t depth = F == Format::float32 ? Tile<float>::DEPTH : std::max<int64_t>(1, to - from);
  Vec<float> total[R][2 * P] = {};
  for (int64_t begin = from; begin < to; begin += depth) {
    Vec<float> sum[R][2 * P] = {};
    for (int64_t k = begin, end = std::min(to, begin + depth); k < end; k++) {
      if constexpr (F == Format::float32) {
        each([&](const char* p, int half) { return load<float>(reinterpret_cast<const float*>(p) + k * COLS + half * L); },
             [&](int r, int j, Vec<float> w) { sum[r][j] += splat(x.floats[r * x.ld + k]) * w; });
      } else if constexpr (F == Format::bfloat16) {
        each([&](const char* p, int half) { return load_words(p + (k * COLS + half * L) * 4); },
             [&](int r, int j, Words w) { sum[r][j] = dot(sum[r][j], x.pairs[r * x.ld / 2 + k] - Words{}, w); });
      } else {
        constexpr int64_t BYTES = COLS * (2 + GROUP / 2);
        Vec<float> part[R][2 * P] = {};
        // The panels of the next tile: a group of each is too short for the CPU to see the next one coming.
        for (int p = P; p < 2 * P; p++)
          for (int64_t line = 0; line < BYTES; line += 64) __builtin_prefetch(panel + p * apart + k * BYTES + line);
        for (int64_t i = 0; i < GROUP / 2; i += 4)
#pragma GCC unroll 4
          for (int nth = 0; nth < 4; nth++)
            each([&](const char* p, int half) {
                   return whole_numbers(load_words(p + k * BYTES + COLS * 2 + (i / 4 * COLS + half * L) * 4) >> (4 * nth));
                 },
                 [&](int r, int j, Words w) {
                   part[r][j] = dot(part[r][j], x.pairs[r * x.ld / 2 + k * (GROUP / 2) + i + nth] - Words{}, w);
                 });
        each([&](const char* p, int half) {
               return load<float>(reinterpret_cast<const c10::BFloat16*>(p + k * BYTES) + half * L);
             },
             [&](int r, int j, Vec<float> scale) { sum[r][j] += part[r][j] * scale; });
      }
    }
    for (int r = 0; r < R; r++)
      for (int j = 0; j < 2 * P; j++) total[r][j] = begin == from ? sum[r][j] : total[r][j] + sum[r][j];
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < 2 * P; j++)
      if (j * L < cols) {
        float* out = y + r * ldy + j * L;
        store<float>(out, add ? load<float>(out, cols - j * L) + total[r][j] : total[r][j], cols - j * L);
      }
}

/// y[M, N] (+)= x[M, K] · panels [first, last) of w, which begins at `weights + w.at`.
template <Format F>
void multiply_range(const Matrix& w, const char* weights, int64_t first, int64_t last, int64_t M, Operand x, float* y,
                    int64_t ldy, bool add) {
  constexpr int ROWS = rows_a_tile(F);
  using Kernel = void (*)(int64_t, int64_t, Operand, const char*, int64_t, bool, float*, int64_t, int64_t);
  static constexpr auto kernels = []<int... R>(std::integer_sequence<int, R...>) {
    struct {
      Kernel wide[ROWS], single[ROWS];
    } both{{multiply_panels<F, R + 1, panels_a_tile(F, R + 1)>...}, {multiply_panels<F, R + 1, 1>...}};
    return both;
  }(std::make_integer_sequence<int, ROWS>());
  if (M == 0) return;
  const int64_t tiles = (M + ROWS - 1) / ROWS, rows = (M + tiles - 1) / tiles, apart = w.panel_bytes();
  const int64_t steps = F == Format::float32 ? w.K : F == Format::bfloat16 ? (w.K + 1) / 2 : w.K / GROUP;
  // Of bfloat16, a part of a panel that stays in the first cache while tiles of rows go over it.
  const int64_t depth = F == Format::bfloat16 ? 256 : steps;
  for (int64_t p = first; p < last;) {
    const int64_t wide = panels_a_tile(F, int(rows)), count = p + wide <= last ? wide : 1;
    const char* panel = weights + w.at + p * apart;
    for (int64_t k = 0; k < std::max<int64_t>(1, steps); k += depth)
      for (int64_t m = 0; m < M; m += rows) {
        const int64_t R = std::min(rows, M - m);
        // Fewer rows at the end go by panels too, as many as the others: their kernel may take fewer at once.
        const bool together = count == panels_a_tile(F, int(R));
        for (int64_t i = 0; i < count; i += together ? count : 1)
          (together ? kernels.wide : kernels.single)[R - 1](k, std::min(steps, k + depth), x.from(m), panel + i * apart, apart,
                                                            add || k > 0, y + m * ldy + (p + i) * COLS, ldy,
                                                            w.N - (p + i) * COLS);
      }
    p += count;
  }
}

inline void multiply_range(const Matrix& w, const char* weights, int64_t first, int64_t last, int64_t M, Operand x, float* y,
                           int64_t ldy, bool add) {
  switch (w.format) {
    case Format::float32: return multiply_range<Format::float32>(w, weights, first, last, M, x, y, ldy, add);
    case Format::bfloat16: return multiply_range<Format::bfloat16>(w, weights, first, last, M, x, y, ldy, add);
    default: return multiply_range<Format::int4>(w, weights, first, last, M, x, y, ldy, add);
  }
}

}  // namespace massif
