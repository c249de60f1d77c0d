// σ(x) = 1 / (1 + e⁻ˣ), and dx = g·σ(x)·(1 − σ(x)): as decode_route.h computes it, every element alike (ATen computes the last
// few of a tensor by another exponential).
#include "op.h"

namespace massif {
namespace {

constexpr int64_t BLOCK = 4096;  // elements a task

template <class F>
Tensor each(const Tensor& like, const F& f) {
  Tensor out = at::empty_like(like);
  parallel_blocks(like.numel(), BLOCK, [&](int64_t, int64_t from, int64_t to) { f(out, from, to); });
  return out;
}

Tensor forward(const Tensor& x) {
  return each(x, [&](const Tensor& y, int64_t from, int64_t to) {
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "massif::sigmoid", [&] {
      const scalar_t* in = x.const_data_ptr<scalar_t>();
      scalar_t* out = y.mutable_data_ptr<scalar_t>();
      for (int64_t i = from; i < to; i += LANES<scalar_t>)
        store<scalar_t>(out + i, sigmoid<scalar_t>(load<scalar_t>(in + i, to - i)), to - i);
    });
  });
}

Tensor backward(const Tensor& y, const Tensor& g) {
  return each(y, [&](const Tensor& d, int64_t from, int64_t to) {
    AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "massif::sigmoid", [&] {
      const scalar_t *s = y.const_data_ptr<scalar_t>(), *dy = g.const_data_ptr<scalar_t>();
      scalar_t* dx = d.mutable_data_ptr<scalar_t>();
      for (int64_t i = from; i < to; i++) dx[i] = dy[i] * s[i] * (scalar_t(1) - s[i]);
    });
  });
}

struct Sigmoid : torch::autograd::Function<Sigmoid> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x) {
    const Tensor y = massif::forward(x.contiguous());
    ctx->save_for_backward({y});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::sigmoid");
    return {massif::backward(ctx->get_saved_variables()[0], grads[0].contiguous())};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("sigmoid(Tensor x) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("sigmoid", [](const Tensor& x) { return forward(x.contiguous()); });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("sigmoid", [](const Tensor& x) { return Sigmoid::apply(x); });
}

}  // namespace massif
