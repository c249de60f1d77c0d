// y = x·Wᵀ by the product of gemm.h, for float and double: MKL keeps to half-width vectors on AMD.
//
//   dx = g·W        dW = gᵀ·x
//
// N rows, I inputs, O outputs.
#include "op.h"
#include "parallel_gemm.h"

namespace massif {
namespace {

void check(const Tensor& x, const Tensor& w) {
  constexpr auto op = "massif::linear";
  TORCH_CHECK(w.dim() == 2 && x.dim() >= 1 && x.size(-1) == w.size(1), op, ": x is ", x.sizes(), " and weight ", w.sizes(),
              ", expected [..., I] and [O, I]");
  check_same_type(op, "weight", w, x);
  TORCH_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble, op, ": x is ", x.scalar_type(),
              ", expected float32 or float64; for others use aten::linear");
}

Tensor forward(const Tensor& x, const Tensor& w) {
  const int64_t O = w.size(0), I = w.size(1);
  auto shape = x.sizes().vec();
  shape.back() = O;
  Tensor y = at::empty(shape, x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "massif::linear", [&] {
    using T = scalar_t;
    parallel_multiply<T, T, T>(O ? y.numel() / O : 0, O, I, {x.const_data_ptr<T>(), I}, {w.const_data_ptr<T>(), 1, I},
                               y.mutable_data_ptr<T>(), O);
  });
  return y;
}

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& w_) {
    check(x_, w_);
    const Tensor x = x_.contiguous(), w = w_.contiguous();
    ctx->save_for_backward({x, w});
    return massif::forward(x, w);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::linear");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], g = grads[0].contiguous();
    const int64_t O = w.size(0), I = w.size(1), N = O ? g.numel() / O : 0;
    Tensor dx, dw;
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "massif::linear", [&] {
      using T = scalar_t;
      const T* g_NO = g.const_data_ptr<T>();
      if (ctx->needs_input_grad(0)) {
        dx = O ? at::empty_like(x) : at::zeros_like(x);
        parallel_multiply<T, T, T>(N, I, O, {g_NO, O}, {w.const_data_ptr<T>(), I}, dx.mutable_data_ptr<T>(), I);
      }
      if (ctx->needs_input_grad(1)) {
        dw = at::empty_like(w);
        parallel_multiply<T, T, T>(O, I, N, {g_NO, 1, O}, {x.const_data_ptr<T>(), I}, dw.mutable_data_ptr<T>(), I);
      }
    });
    return {dx, dw};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("linear(Tensor x, Tensor weight_OI) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("linear", [](const Tensor& x, const Tensor& w) {
    check(x, w);
    return forward(x.contiguous(), w.contiguous());
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("linear", [](const Tensor& x, const Tensor& w) { return Linear::apply(x, w); });
}

}  // namespace massif
