// Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467) with the rounding of Hugging Face's DeepSeek-V3:
//
//   r_n = 1 / √(mean_d x_nd² + ε)      x̂ = round(x · r)      y = x̂ · w
//   dw_d = Σ_n g_nd · x̂_nd            dx = r · (g·w − x̂ · mean_d(g·w·x̂))
//
// Statistics in float (double for double); x̂ is rounded to x's type before the gain. r is kept for the backward. The gain
// may be float beside a bfloat16 x, and y bfloat16 beside a float x: the residual stream stays wide.
#include "op.h"

namespace massif {
namespace {

constexpr int64_t BLOCK = 128;  // rows a task; one partial sum of dw each

template <class T, class W, class Y>
void forward_rows(int64_t N, int64_t D, const T* x, const W* w, double eps, Y* y, Sum<T>* rstd) {
  using S = Sum<T>;
  constexpr int64_t L = LANES<S>;
  for (int64_t n = 0; n < N; n++, x += D, y += D) {
    Vec<S> squares = {};
    for (int64_t d = 0; d < D; d += L) {
      const Vec<S> v = load<S>(x + d, D - d);
      squares += v * v;
    }
    const S r = rstd[n] = S(1) / std::sqrt(lane_sum<S>(squares) / S(D) + S(eps));
    for (int64_t d = 0; d < D; d += L) {
      T unit[L];
      store<S>(unit, load<S>(x + d, D - d) * r);
      store<S>(y + d, load<S>(unit) * load<S>(w + d, D - d), D - d);
    }
  }
}

template <class T, class W, class Y>
void backward_rows(int64_t N, int64_t D, const T* x, const W* w, const Sum<T>* rstd, const Y* g, T* dx, Sum<T>* dw) {
  using S = Sum<T>;
  constexpr int64_t L = LANES<S>;
  for (int64_t n = 0; n < N; n++, x += D, g += D, dx += D) {
    const S r = rstd[n];
    Vec<S> dots = {};
    for (int64_t d = 0; d < D; d += L) {
      const Vec<S> unit = load<S>(x + d, D - d) * r, dy = load<S>(g + d, D - d);
      dots += dy * load<S>(w + d, D - d) * unit;
      store<S>(dw + d, load<S>(dw + d, D - d) + dy * unit, D - d);
    }
    const S mean = lane_sum<S>(dots) / S(D);
    for (int64_t d = 0; d < D; d += L) {
      const Vec<S> unit = load<S>(x + d, D - d) * r;
      store<S>(dx + d, r * (load<S>(g + d, D - d) * load<S>(w + d, D - d) - unit * mean), D - d);
    }
  }
}

/// f(w, y) with the data of the gain and of y (or its gradient), whichever types these have.
template <class T, class F>
void with_types(const Tensor& w, const Tensor& y, const F& f) {
  with_data<T>(w, [&](const auto* gain) {
    if constexpr (std::is_same_v<T, float>)
      if (y.scalar_type() == at::kBFloat16) return f(gain, y.data_ptr<c10::BFloat16>());
    f(gain, y.data_ptr<T>());
  });
}

std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& w, double eps, at::ScalarType out) {
  const int64_t D = w.numel(), N = D ? x.numel() / D : 0;
  Tensor y = at::empty_like(x, x.options().dtype(out)), rstd = at::empty({N}, x.options().dtype(sum_type(x)));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::rms_norm", [&] {
    with_types<scalar_t>(w, y, [&](const auto* gain, auto* y_ND) {
      parallel_blocks(N, BLOCK, [&](int64_t, int64_t from, int64_t to) {
        forward_rows(to - from, D, x.const_data_ptr<scalar_t>() + from * D, gain, eps, y_ND + from * D,
                     rstd.mutable_data_ptr<Sum<scalar_t>>() + from);
      });
    });
  });
  return {y, rstd};
}

std::pair<Tensor, Tensor> backward(const Tensor& x, const Tensor& w, const Tensor& rstd, const Tensor& g) {
  const int64_t D = w.numel(), N = rstd.numel();
  Tensor dx = at::empty_like(x), dw = at::zeros({blocks_of(N, BLOCK), D}, rstd.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::rms_norm", [&] {
    with_types<scalar_t>(w, g, [&](const auto* gain, const auto* g_ND) {
      parallel_blocks(N, BLOCK, [&](int64_t block, int64_t from, int64_t to) {
        backward_rows(to - from, D, x.const_data_ptr<scalar_t>() + from * D, gain,
                      rstd.const_data_ptr<Sum<scalar_t>>() + from, g_ND + from * D,
                      dx.mutable_data_ptr<scalar_t>() + from * D, dw.mutable_data_ptr<Sum<scalar_t>>() + block * D);
      });
    });
  });
  return {dx, dw.sum(0).to(w.scalar_type())};
}

void check(const Tensor& x, const Tensor& w, at::ScalarType out) {
  constexpr auto op = "massif::rms_norm";
  TORCH_CHECK(w.dim() == 1 && x.dim() >= 1 && x.size(-1) == w.size(0), op, ": weight is ", w.sizes(), " and x ", x.sizes(),
              ", expected weight [D] and x [..., D]");
  check_same_or_wide(op, "weight", w.scalar_type(), x);
  TORCH_CHECK(out == x.scalar_type() || (out == at::kBFloat16 && x.scalar_type() == at::kFloat), op, ": the result is ", out,
              ", expected ", x.scalar_type(), " like x, or bfloat16 of float32");
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& w_, double eps, at::ScalarType out) {
    check(x_, w_, out);
    const Tensor x = x_.contiguous(), w = w_.contiguous();
    auto [y, rstd] = massif::forward(x, w, eps, out);
    ctx->save_for_backward({x, w, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::rms_norm");
    const auto saved = ctx->get_saved_variables();
    auto [dx, dw] = massif::backward(saved[0], saved[1], saved[2], grads[0].contiguous());
    return {dx, dw, Tensor(), Tensor()};
  }
};

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps, std::optional<at::ScalarType> dtype) {
  const auto out = dtype.value_or(x.scalar_type());
  check(x, w, out);
  return forward(x.contiguous(), w.contiguous(), eps, out).first;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("rms_norm(Tensor x, Tensor weight, float eps, ScalarType? dtype=None) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) { m.impl("rms_norm", rms_norm); }
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("rms_norm", [](const Tensor& x, const Tensor& w, double eps, std::optional<at::ScalarType> dtype) {
    return RmsNorm::apply(x, w, eps, dtype.value_or(x.scalar_type()));
  });
}

}  // namespace massif
