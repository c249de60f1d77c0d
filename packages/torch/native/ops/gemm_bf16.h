// The matrix product of gemm.h with operands in bfloat16 and sums in float, where the CPU multiplies bfloat16:
// vdpbf16ps takes two neighbours along K at once, c += a_k·b_k + a_k+1·b_k+1, at twice the rate of float.
//
// B is packed into panels [N / COLS][K / 2][COLS][2]. Rows of A whose elements lie side by side are read in place if they
// are bfloat16 already; of any other A a block of rows is packed first. What is not bfloat16 is rounded while it is
// packed. An odd K is filled up with a zero on both sides (a zero against whatever lies behind A might be 0·∞).
#pragma once

#include "gemm.h"

namespace massif {

/// The type sums are kept in: float for float, bfloat16 and Half; double for double.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace massif

#if defined(__AVX512BF16__)
#include <immintrin.h>

namespace massif {

using c10::BFloat16;

template <>
struct Tile<BFloat16> {
  static constexpr int64_t ROWS = 12, COLS = 32, DEPTH = 1024;
  static constexpr int64_t BLOCK = 16 * ROWS;  // rows of A that stay in the second cache while B goes by
};

constexpr int64_t pairs(int64_t K) { return (K + 1) / 2; }

template <>
constexpr int64_t packed_size<BFloat16>(int64_t K, int64_t N) {
  return blocks_of(N, Tile<BFloat16>::COLS) * Tile<BFloat16>::COLS * 2 * pairs(K);
}

namespace bf16 {

/// Sixteen pairs (k, k + 1) of bfloat16, one to a 32-bit word.
inline Vec<float> dot(Vec<float> sum, Words a, Words b) { return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
inline Words join(HalfWords low, HalfWords high) {
  return (Words)_mm512_inserti64x4(_mm512_castsi256_si512((__m256i)low), (__m256i)high, 1);
}

/// n ≤ 16 elements side by side, as bfloat16; zeros past them.
inline HalfWords halves(const BFloat16* p, int64_t n) {
  return (HalfWords)_mm256_maskz_loadu_epi16(__mmask16(n >= 16 ? 0xffff : (1 << std::max<int64_t>(n, 0)) - 1), p);
}
template <class In>
inline HalfWords halves(const In* p, int64_t n) {
  return n > 0 ? narrow(load<float>(p, n)) : HalfWords{};
}

/// Elements a_i and b_i, i < n, as the pairs of a word each: two rows that are neighbours along K.
template <class In>
inline Words interleave(const In* a, const In* b, int64_t n) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)halves(a, n));
  return b ? (Words)_mm512_or_si512(low, _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves(b, n)), 16)) : (Words)low;
}

/// B[K,N] → out[K / 2][N][2] with `stride` elements from one pair of rows to the next.
template <class In>
void pack_pairs(int64_t K, int64_t N, Mat<const In> B, BFloat16* out, int64_t stride) {
  constexpr int64_t L = 16;
  if (B.cs == 1) {
    for (int64_t k = 0; k < K; k += 2)
      for (int64_t n = 0; n < N; n += L) {
        const In* row = B.at + k * B.rs + n;
        const Words words = interleave(row, k + 1 < K ? row + B.rs : nullptr, N - n);
        _mm512_mask_storeu_epi32(out + k / 2 * stride + 2 * n, __mmask16((1u << std::min(L, N - n)) - 1), (__m512i)words);
      }
  } else if (B.rs == 1) {  // columns lie side by side: blocks of 16 columns × 16 pairs through registers
    for (int64_t n = 0; n < N; n += L)
      for (int64_t k = 0; k < K; k += 2 * L) {
        Vec<float> block[L];
        for (int64_t j = 0; j < L; j++) {
          const In* column = B.at + (n + j) * B.cs + k;
          const Words words = n + j < N ? join(halves(column, K - k), halves(column + L, K - k - L)) : Words{};
          std::memcpy(&block[j], &words, sizeof words);
        }
        transpose<float>(block);
        for (int64_t i = 0; i < std::min(L, pairs(K - k)); i++)
          _mm512_mask_storeu_ps(out + (k / 2 + i) * stride + 2 * n, __mmask16((1u << std::min(L, N - n)) - 1), block[i]);
      }
  } else {
    for (int64_t k = 0; k < 2 * pairs(K); k++)
      for (int64_t n = 0; n < N; n++)
        out[k / 2 * stride + 2 * n + k % 2] = k < K ? BFloat16(B.at[k * B.rs + n * B.cs]) : BFloat16(0);
  }
}

/// Where the pairs of A lie: (row, pair) at[row * rs + pair * cs], cs and rs in elements.
struct Rows {
  const BFloat16* at;
  int64_t rs, cs;
};

/// A[M,K] as pairs: where it lies, or packed into `scratch` of M · 2 pairs(K) elements.
template <class In>
Rows rows_of(int64_t M, int64_t K, Mat<const In> A, BFloat16* scratch) {
  if constexpr (std::is_same_v<In, BFloat16>)
    if (A.cs == 1 && K % 2 == 0) return {A.at, A.rs, 2};
  const int64_t width = 2 * pairs(K);
  if (A.cs == 1) {
    for (int64_t m = 0; m < M; m++)
      for (int64_t k = 0; k < K; k += 32) {
        const In* row = A.at + m * A.rs + k;
        BFloat16* out = scratch + m * width + k;
        const Words words = join(halves(row, K - k), halves(row + 16, K - k - 16));
        if (K - k >= 32)
          std::memcpy(out, &words, sizeof words);
        else
          std::memcpy(out, &words, 2 * (width - k));
      }
    return {scratch, width, 2};
  }
  pack_pairs<In>(K, M, A.t(), scratch, 2 * M);
  return {scratch, 2, 2 * M};
}

/// C[R, cols] = α · A[R, 2·depth] · panel (+ C): R × 2 accumulators in registers.
template <int R, class Out>
void multiply_tile(int64_t depth, Rows A, const BFloat16* panel, float alpha, bool add, Out* C, int64_t ldc, int64_t cols) {
  Vec<float> sum[R][2] = {};
  const BFloat16* a = A.at;
  for (int64_t k = 0; k < depth; k++, a += A.cs, panel += 64) {
    const Words b0 = (Words)_mm512_loadu_si512(panel), b1 = (Words)_mm512_loadu_si512(panel + 32);
    const BFloat16* row = a;
#pragma GCC unroll 12
    for (int r = 0; r < R; r++, row += A.rs) {
      uint32_t pair;
      std::memcpy(&pair, row, sizeof pair);
      const Words x = (Words)_mm512_set1_epi32(int(pair));
      sum[r][0] = dot(sum[r][0], x, b0);
      sum[r][1] = dot(sum[r][1], x, b1);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++, C += ldc)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const int64_t at = 16 * half, n = cols - at;
      if (n <= 0) continue;
      const Vec<float> y = sum[r][half] * alpha;
      store<float>(C + at, add ? load<float>(C + at, n) + y : y, n);
    }
}

template <class Out>
void multiply_rows(int64_t rows, int64_t depth, Rows A, const BFloat16* panel, float alpha, bool add, Out* C, int64_t ldc,
                   int64_t cols) {
  [&]<int... R>(std::integer_sequence<int, R...>) {
    static constexpr decltype(&multiply_tile<1, Out>) kernels[] = {multiply_tile<R + 1, Out>...};
    kernels[rows - 1](depth, A, panel, alpha, add, C, ldc, cols);
  }(std::make_integer_sequence<int, Tile<BFloat16>::ROWS>());
}

}  // namespace bf16

template <std::same_as<BFloat16> P, class In>
void pack(int64_t K, int64_t N, Mat<const In> B, BFloat16* panels) {
  constexpr int64_t COLS = Tile<BFloat16>::COLS;
  for (int64_t n = 0; n < N; n += COLS, panels += COLS * 2 * pairs(K)) {
    if (N - n < COLS) std::fill_n(panels, COLS * 2 * pairs(K), BFloat16(0));
    bf16::pack_pairs<In>(K, std::min(COLS, N - n), B.from(0, n), panels, 2 * COLS);
  }
}

template <std::same_as<BFloat16> P, class In, class Out>
void multiply_packed(int64_t M, int64_t N, int64_t K, Mat<const In> A, const BFloat16* panels, Out* C, int64_t ldc,
                     bool add = false, float alpha = 1, int64_t packed_K = 0) {
  constexpr int64_t ROWS = Tile<P>::ROWS, COLS = Tile<P>::COLS, BLOCK = Tile<P>::BLOCK;
  static thread_local Scratch<BFloat16> scratch;
  const int64_t panel_pairs = pairs(packed_K ? packed_K : K);
  const int64_t cut = cut_of<P, float, Out>(K);
  if (K == 0 && !add)
    for (int64_t i = 0; i < M; i++) std::fill_n(C + i * ldc, N, Out(0));
  for (int64_t k = 0; k < K; k += cut) {
    const int64_t depth = std::min(cut, K - k);
    for (int64_t begin = 0; begin < M; begin += BLOCK) {
      const int64_t rows = std::min(BLOCK, M - begin);
      const bf16::Rows block = bf16::rows_of<In>(rows, depth, A.from(begin, k), scratch.get(rows * 2 * pairs(depth)));
      for (int64_t n = 0; n < N; n += COLS)
        for (int64_t m = 0; m < rows; m += ROWS)
          bf16::multiply_rows<Out>(std::min(ROWS, rows - m), pairs(depth), {block.at + m * block.rs, block.rs, block.cs},
                                   panels + 2 * (n * panel_pairs + k / 2 * COLS), alpha, add || k > 0,
                                   C + (begin + m) * ldc + n, ldc, std::min(COLS, N - n));
    }
  }
}

template <std::same_as<BFloat16> P, class InA, class InB, class Out>
void multiply(int64_t M, int64_t N, int64_t K, Mat<const InA> A, Mat<const InB> B, Out* C, int64_t ldc, bool add = false,
              float alpha = 1) {
  static thread_local Scratch<BFloat16> scratch;
  constexpr int64_t COLS = Tile<P>::COLS, SECOND_CACHE = 1 << 18;  // elements of B packed at a time
  if (K == 0) return multiply_packed<P, InA>(M, N, 0, A, nullptr, C, ldc, add, alpha);
  const int64_t cut = cut_of<P, float, Out>(K);
  for (int64_t k = 0; k < K; k += cut) {
    const int64_t depth = std::min(cut, K - k), width = std::max<int64_t>(1, SECOND_CACHE / depth / COLS) * COLS;
    for (int64_t n = 0; n < N; n += width) {
      const int64_t cols = std::min(width, N - n);
      BFloat16* panels = scratch.get(packed_size<P>(depth, cols));
      pack<P, InB>(depth, cols, B.from(k, n), panels);
      multiply_packed<P, InA>(M, cols, depth, A.from(0, k), panels, C + n, ldc, add || k > 0, alpha);
    }
  }
}

}  // namespace massif
#endif

namespace massif {

/// What products of T read: bfloat16 where the CPU multiplies it, else the type that sums are kept in.
#if defined(__AVX512BF16__)
template <class T>
using Panel = std::conditional_t<std::is_same_v<T, c10::BFloat16>, c10::BFloat16, Sum<T>>;
#else
template <class T>
using Panel = Sum<T>;
#endif

}  // namespace massif
