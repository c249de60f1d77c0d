// Matrix product for the operators: C[M,N] = α·A[M,K]·B[K,N] (+ C), row-major C, any strides of A and B.
//
// Why not BLAS: MKL keeps to AVX2 on AMD, and a call costs more than the product of an attention tile.
// One register tile of ROWS × COLS, written in the compiler's vector types (AVX-512, AVX2, SSE, NEON alike).
// B is packed into panels [N / COLS][K][COLS]; A is read in place by broadcast, so its strides are free.
// Inputs may be bfloat16 or Half: they are widened while they are read, sums are kept in T. gemm_bf16.h has the same
// functions for panels of bfloat16, for CPUs that multiply it.
// One thread; the caller shares work out. Sums run over k in order: the result does not depend on M or N.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <utility>

#include "vec.h"

namespace massif {

/// A strided matrix that somebody else owns: element (i, j) is at[i * rs + j * cs].
template <class T>
struct Mat {
  T* at;
  int64_t rs, cs = 1;
  Mat t() const { return {at, cs, rs}; }
  Mat from(int64_t i, int64_t j) const { return {at + i * rs + j * cs, rs, cs}; }
  operator Mat<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {at, rs, cs};
  }
};

template <class T>
struct Tile {
  static constexpr int64_t ROWS = VECTOR_REGISTERS >= 32 ? 12 : 6;
  static constexpr int64_t COLS = 2 * LANES<T>;
  static constexpr int64_t DEPTH = 256;  // a panel of B (32 KiB) stays in the first cache
};

inline constexpr int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/// Elements that `pack` writes for a [K, N] matrix.
template <class T>
constexpr int64_t packed_size(int64_t K, int64_t N) {
  return blocks_of(N, Tile<T>::COLS) * Tile<T>::COLS * K;
}

/// B[K,N] → panels [N / COLS][K][COLS], the last one padded with zeros.
template <std::floating_point T, class In>
void pack(int64_t K, int64_t N, Mat<const In> B, T* panels) {
  constexpr int64_t COLS = Tile<T>::COLS, L = LANES<T>;
  for (int64_t n = 0; n < N; n += COLS, panels += K * COLS) {
    const int64_t cols = std::min(COLS, N - n);
    const In* b = B.at + n * B.cs;
    if (cols < COLS) std::fill(panels, panels + K * COLS, T(0));
    if (B.cs == 1 && cols == COLS) {
      for (int64_t k = 0; k < K; k++)
        for (int64_t j = 0; j < COLS; j += L) store<T>(panels + k * COLS + j, load<T, In>(b + k * B.rs + j));
    } else {
      int64_t k = 0;
      if (B.rs == 1)  // B is a transposed row-major matrix: L × L blocks through registers
        for (; k + L <= K; k += L)
          for (int64_t j = 0; j < cols; j += L) {
            Vec<T> block[L];
            const int64_t rows = std::min(L, cols - j);
            for (int64_t i = 0; i < L; i++) block[i] = i < rows ? load<T, In>(b + (j + i) * B.cs + k) : Vec<T>{};
            transpose<T>(block);
            for (int64_t i = 0; i < L; i++) store<T>(panels + (k + i) * COLS + j, block[i]);
          }
      for (; k < K; k++)
        for (int64_t j = 0; j < cols; j++) panels[k * COLS + j] = T(b[k * B.rs + j * B.cs]);
    }
  }
}

/// C[R, cols] = α · A[R, K] · panel (+ C): R × 2 accumulators in registers.
template <int R, class T, class In, class Out>
void multiply_tile(int64_t K, Mat<const In> A, const T* panel, T alpha, bool add, Out* C, int64_t ldc, int64_t cols) {
  constexpr int64_t L = LANES<T>;
  Vec<T> sum[R][2] = {};
  const In* a = A.at;
  const int64_t rs = A.rs;
  for (int64_t k = 0; k < K; k++, a += A.cs, panel += 2 * L) {
    const Vec<T> b0 = load<T>(panel), b1 = load<T>(panel + L);
    const In* row = a;
#pragma GCC unroll 12
    for (int r = 0; r < R; r++, row += rs) {
      const Vec<T> x = splat(T(*row));
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++, C += ldc) {
    const Vec<T> y[2] = {sum[r][0] * alpha, sum[r][1] * alpha};
    if (cols == 2 * L) {
      store<T>(C, add ? load<T>(C) + y[0] : y[0]);
      store<T>(C + L, add ? load<T>(C + L) + y[1] : y[1]);
    } else {
      T tail[2 * L];
      std::memcpy(tail, y, sizeof tail);
      for (int64_t j = 0; j < cols; j++) C[j] = Out(add ? T(C[j]) + tail[j] : tail[j]);
    }
  }
}

template <class T, class In, class Out, int... R>
void multiply_rows(int64_t rows, int64_t K, Mat<const In> A, const T* panel, T alpha, bool add, Out* C, int64_t ldc,
                   int64_t cols, std::integer_sequence<int, R...>) {
  using Kernel = void (*)(int64_t, Mat<const In>, const T*, T, bool, Out*, int64_t, int64_t);
  static constexpr Kernel kernels[] = {multiply_tile<R + 1, T, In, Out>...};
  kernels[rows - 1](K, A, panel, alpha, add, C, ldc, cols);
}

/// How much of K is summed before C is written: all of it where Out is narrower than T, so that a sum is rounded once.
template <class P, class T, class Out>
constexpr int64_t cut_of(int64_t K) {
  return std::is_same_v<T, Out> ? Tile<P>::DEPTH : std::max<int64_t>(K, 1);
}

/// C[M,N] = α·A[M,K]·B (+ C), with B[K,N] packed by `pack`: the first K rows of `packed_K`, if that is given.
template <std::floating_point T, class In, class Out>
void multiply_packed(int64_t M, int64_t N, int64_t K, Mat<const In> A, const T* panels, Out* C, int64_t ldc, bool add = false,
                     T alpha = 1, int64_t packed_K = 0) {
  constexpr int64_t ROWS = Tile<T>::ROWS, COLS = Tile<T>::COLS;
  const int64_t cut = cut_of<T, T, Out>(K);
  if (packed_K == 0) packed_K = K;
  if (K == 0 && !add)
    for (int64_t i = 0; i < M; i++) std::fill(C + i * ldc, C + i * ldc + N, Out(0));
  for (int64_t k = 0; k < K; k += cut) {
    const int64_t depth = std::min(cut, K - k);
    for (int64_t n = 0; n < N; n += COLS)
      for (int64_t m = 0; m < M; m += ROWS)
        multiply_rows<T, In, Out>(std::min(ROWS, M - m), depth, A.from(m, k), panels + n * packed_K + k * COLS, alpha, add || k > 0,
                             C + m * ldc + n, ldc, std::min(COLS, N - n), std::make_integer_sequence<int, ROWS>());
  }
}

/// C[R, cols] = A[R, K]·Wᵀ (+ C) of cols ≤ L rows of W, `ldw` apart: each L × L block of W is transposed in registers.
template <int R, class T, class InA, class InW, class Out>
void multiply_rows_of(int64_t K, Mat<const InA> A, const InW* w, int64_t ldw, bool add, Out* C, int64_t ldc, int64_t cols) {
  const int64_t cut = cut_of<T, T, Out>(K);
  constexpr int64_t L = LANES<T>;
  for (int64_t begin = 0; begin < K; begin += cut) {
    const int64_t end = std::min(K, begin + cut);
    Vec<T> sum[R] = {};
    for (int64_t k = begin; k < end; k += L) {
      Vec<T> block[L];
      const auto sum_up = [&](int64_t depth) __attribute__((always_inline)) {
        transpose<T>(block);
#pragma GCC unroll 16
        for (int64_t i = 0; i < depth; i++)
#pragma GCC unroll 12
          for (int r = 0; r < R; r++) sum[r] += splat(T(A.at[r * A.rs + (k + i) * A.cs])) * block[i];
      };
      const auto row = [&](int64_t j) { return w + std::min(j, cols - 1) * ldw + k; };  // past the last one: any
      if (k + L <= end) {
        for (int64_t j = 0; j < L; j++) {
          block[j] = load<T, InW>(row(j));
          __builtin_prefetch(row(j) + L * ldw, 0, 2);  // the rows after these L: the hardware sees no stream so short
        }
        sum_up(L);
      } else {
        for (int64_t j = 0; j < L; j++) block[j] = load<T, InW>(row(j), end - k);
        sum_up(end - k);
      }
    }
    for (int r = 0; r < R; r++) {
      Out* c = C + r * ldc;
      store<T>(c, add || begin > 0 ? load<T>(c, cols) + sum[r] : sum[r], cols);
    }
  }
}

/// C[M,N] = A[M,K]·Wᵀ (+ C) for M ≤ ROWS and W[N,K] with whole rows, `ldw` apart: W is read once where it lies. Sums as
/// `multiply_packed`, to the bit.
template <class T, class InA, class InW, class Out>
void multiply_few(int64_t M, int64_t N, int64_t K, Mat<const InA> A, const InW* W, int64_t ldw, Out* C, int64_t ldc, bool add) {
  [&]<int... R>(std::integer_sequence<int, R...>) {
    static constexpr decltype(&multiply_rows_of<1, T, InA, InW, Out>) kernels[] = {multiply_rows_of<R + 1, T, InA, InW, Out>...};
    for (int64_t n = 0; n < N; n += LANES<T>)
      kernels[M - 1](K, A, W + n * ldw, ldw, add, C + n, ldc, std::min(LANES<T>, N - n));
  }(std::make_integer_sequence<int, Tile<T>::ROWS>());
}

/// C[M,N] = α·A[M,K]·B[K,N] (+ C). Packs B, a slice of it at a time, into this thread's scratch; a few rows A do not pay
/// that back, and read B in place if it is the transpose of a matrix with whole rows.
template <std::floating_point T, class InA, class InB, class Out>
void multiply(int64_t M, int64_t N, int64_t K, Mat<const InA> A, Mat<const InB> B, Out* C, int64_t ldc, bool add = false,
              T alpha = 1) {
  static thread_local Scratch<T> scratch;
  constexpr int64_t WIDTH = 8 * Tile<T>::COLS;
  const int64_t cut = cut_of<T, T, Out>(K);
  if (K == 0) return multiply_packed<T, InA>(M, N, 0, A, nullptr, C, ldc, add, alpha);
  if (M > 0 && M <= Tile<T>::ROWS && B.rs == 1 && alpha == T(1)) return multiply_few<T>(M, N, K, A, B.at, B.cs, C, ldc, add);
  for (int64_t k = 0; k < K; k += cut) {
    const int64_t depth = std::min(cut, K - k);
    for (int64_t n = 0; n < N; n += WIDTH) {
      const int64_t width = std::min(WIDTH, N - n);
      T* panels = scratch.get(packed_size<T>(depth, width));
      pack<T>(depth, width, B.from(k, n), panels);
      multiply_packed<T, InA>(M, width, depth, A.from(0, k), panels, C + n, ldc, add || k > 0, alpha);
    }
  }
}

}  // namespace massif
