// The matrix product of gemm.h on all threads: the longer side of C is shared out, so no sum is split and the result
// does not depend on the number of threads. Inside a parallel region it runs on the calling thread.
#pragma once

#include <ATen/Parallel.h>

#include "gemm_bf16.h"

namespace massif {

/// T is what the panels are made of, `Panel` of op.h.
template <class T, class InA, class InB, class Out>
void parallel_multiply(int64_t M, int64_t N, int64_t K, Mat<const InA> A, Mat<const InB> B, Out* C, int64_t ldc,
                       bool add = false, Sum<T> alpha = 1) {
  constexpr double WORTH_A_THREAD = 1 << 17;  // multiply-adds
  const bool by_rows = M >= N;
  const int64_t unit = by_rows ? Tile<T>::ROWS : Tile<T>::COLS, length = by_rows ? M : N, units = (length + unit - 1) / unit;
  const int64_t grain = std::max<int64_t>(1, int64_t(WORTH_A_THREAD * units / std::max<double>(1, double(M) * N * K)));
  at::parallel_for(0, units, grain, [&](int64_t first, int64_t last) {
    const int64_t from = first * unit, count = std::min(length, last * unit) - from;
    if (by_rows)
      multiply<T, InA, InB>(count, N, K, A.from(from, 0), B, C + from * ldc, ldc, add, alpha);
    else
      multiply<T, InA, InB>(M, count, K, A, B.from(0, from), C + from, ldc, add, alpha);
  });
}

}  // namespace massif
