// What every operator of ours starts from: registration, checks, and sharing rows out to threads.
//
// An operator is one file: the kernels (plain pointers and sizes), an autograd function that saves what its
// hand-written backward needs, and its lines in the dispatcher namespace `massif`. CPU only: on other devices the
// dispatcher finds no kernel, and the plain twin in TypeScript is used instead.
// Integers in shape suffixes: N rows, D width, B batch, T time, H heads; each file names the rest.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "gemm_bf16.h"
#include "vec.h"

namespace massif {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

inline at::ScalarType sum_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

inline void check_same_type(const char* op, const char* name, const Tensor& found, const Tensor& expected) {
  TORCH_CHECK(found.scalar_type() == expected.scalar_type(), op, ": ", name, " is ", found.scalar_type(), ", expected ",
              expected.scalar_type(), " like the first argument");
}

inline void check_shape(const char* op, const char* name, const Tensor& found, at::IntArrayRef expected) {
  TORCH_CHECK(found.sizes() == expected, op, ": ", name, " is ", found.sizes(), ", expected ", expected);
}

/// Beside activations in bfloat16, parameters and results may stay in float.
inline void check_same_or_wide(const char* op, const char* name, at::ScalarType found, const Tensor& expected) {
  const bool wide = expected.scalar_type() == at::kBFloat16 && found == at::kFloat;
  TORCH_CHECK(wide || found == expected.scalar_type(), op, ": ", name, " is ", found, ", expected ", expected.scalar_type(),
              " like the first argument", expected.scalar_type() == at::kBFloat16 ? ", or float32" : "");
}

/// f(data) of such a tensor beside activations of type T.
template <class T, class F>
void with_data(const Tensor& t, const F& f) {
  if constexpr (std::is_same_v<T, c10::BFloat16>)
    if (t.scalar_type() == at::kFloat) return f(t.const_data_ptr<float>());
  f(t.const_data_ptr<T>());
}
template <class T, class F>
void with_mutable_data(const Tensor& t, const F& f) {
  if constexpr (std::is_same_v<T, c10::BFloat16>)
    if (t.scalar_type() == at::kFloat) return f(t.mutable_data_ptr<float>());
  f(t.mutable_data_ptr<T>());
}

/// The backwards here are written by hand and have no graph of their own.
inline void check_once(const char* op) {
  TORCH_CHECK(!at::GradMode::is_enabled(), op, ": found a second derivative asked for (create_graph), expected only a ",
              "first; use the operator's plain twin");
}

/// f(block, begin, end) for [0, n) in blocks of a fixed size, on all threads. What is summed per block does not
/// depend on the number of threads.
template <class F>
void parallel_blocks(int64_t n, int64_t size, const F& f) {
  at::parallel_for(0, blocks_of(n, size), 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) f(i, i * size, std::min(n, (i + 1) * size));
  });
}

}  // namespace massif
