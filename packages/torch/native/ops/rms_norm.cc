// Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467) with the rounding of Hugging Face's DeepSeek-V3:
//
//   r_n = 1 / √(mean_d x_nd² + ε)      x̂ = round(x · r)      y = x̂ · w
//   dw_d = Σ_n g_nd · x̂_nd            dx = r · (g·w − x̂ · mean_d(g·w·x̂))
//
// Statistics in float (double for double); x̂ is rounded to x's type before the gain. r is kept for the backward.
#include "op.h"

namespace massif {
namespace {

constexpr int64_t BLOCK = 128;  // rows a task; one partial sum of dw each

template <class T>
void forward_rows(int64_t N, int64_t D, const T* x, const T* w, double eps, T* y, Sum<T>* rstd) {
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

template <class T>
void backward_rows(int64_t N, int64_t D, const T* x, const T* w, const Sum<T>* rstd, const T* g, T* dx, Sum<T>* dw) {
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

std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& w, double eps) {
  const int64_t D = w.numel(), N = D ? x.numel() / D : 0;
  Tensor y = at::empty_like(x), rstd = at::empty({N}, x.options().dtype(sum_type(x)));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::rms_norm", [&] {
    parallel_blocks(N, BLOCK, [&](int64_t, int64_t from, int64_t to) {
      forward_rows<scalar_t>(to - from, D, x.const_data_ptr<scalar_t>() + from * D, w.const_data_ptr<scalar_t>(), eps,
                             y.mutable_data_ptr<scalar_t>() + from * D, rstd.mutable_data_ptr<Sum<scalar_t>>() + from);
    });
  });
  return {y, rstd};
}

std::pair<Tensor, Tensor> backward(const Tensor& x, const Tensor& w, const Tensor& rstd, const Tensor& g) {
  const int64_t D = w.numel(), N = rstd.numel();
  Tensor dx = at::empty_like(x), dw = at::zeros({blocks_of(N, BLOCK), D}, rstd.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::rms_norm", [&] {
    parallel_blocks(N, BLOCK, [&](int64_t block, int64_t from, int64_t to) {
      backward_rows<scalar_t>(to - from, D, x.const_data_ptr<scalar_t>() + from * D, w.const_data_ptr<scalar_t>(),
                              rstd.const_data_ptr<Sum<scalar_t>>() + from, g.const_data_ptr<scalar_t>() + from * D,
                              dx.mutable_data_ptr<scalar_t>() + from * D,
                              dw.mutable_data_ptr<Sum<scalar_t>>() + block * D);
    });
  });
  return {dx, dw.sum(0).to(w.scalar_type())};
}

void check(const Tensor& x, const Tensor& w) {
  TORCH_CHECK(w.dim() == 1 && x.dim() >= 1 && x.size(-1) == w.size(0), "massif::rms_norm: weight is ", w.sizes(),
              " and x ", x.sizes(), ", expected weight [D] and x [..., D]");
  check_same_type("massif::rms_norm", "weight", w, x);
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& w_, double eps) {
    check(x_, w_);
    const Tensor x = x_.contiguous(), w = w_.contiguous();
    auto [y, rstd] = massif::forward(x, w, eps);
    ctx->save_for_backward({x, w, rstd});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::rms_norm");
    const auto saved = ctx->get_saved_variables();
    auto [dx, dw] = massif::backward(saved[0], saved[1], saved[2], grads[0].contiguous());
    return {dx, dw, Tensor()};
  }
};

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps) {
  check(x, w);
  return forward(x.contiguous(), w.contiguous(), eps).first;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) { m.impl("rms_norm", rms_norm); }
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("rms_norm", [](const Tensor& x, const Tensor& w, double eps) { return RmsNorm::apply(x, w, eps); });
}

}  // namespace massif
