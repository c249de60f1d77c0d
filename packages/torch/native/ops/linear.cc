// y = x·Wᵀ by the product of gemm.h: MKL keeps to half-width vectors on AMD.
//
//   dx = g·W        dW = gᵀ·x
//
// x is float, double or bfloat16, and so is what is multiplied. Beside bfloat16, W and y may be float: masters, whose
// gradient is then never rounded, and the residual stream. N rows, I inputs, O outputs.
#include "op.h"
#include "parallel_gemm.h"

namespace massif {
namespace {

void check(const Tensor& x, const Tensor& w, at::ScalarType out) {
  constexpr auto op = "massif::linear";
  TORCH_CHECK(w.dim() == 2 && x.dim() >= 1 && x.size(-1) == w.size(1), op, ": x is ", x.sizes(), " and weight ", w.sizes(),
              ", expected [..., I] and [O, I]");
  TORCH_CHECK(x.scalar_type() != at::kHalf && x.is_floating_point(), op, ": x is ", x.scalar_type(),
              ", expected float32, float64 or bfloat16; for others use aten::linear");
  check_same_or_wide(op, "weight", w.scalar_type(), x);
  check_same_or_wide(op, "the result", out, x);
}

Tensor forward(const Tensor& x, const Tensor& w, at::ScalarType out) {
  const int64_t O = w.size(0), I = w.size(1);
  auto shape = x.sizes().vec();
  shape.back() = O;
  Tensor y = at::empty(shape, x.options().dtype(out));
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "massif::linear", [&] {
    using T = scalar_t;
    with_data<T>(w, [&]<class W>(const W* w_OI) {
      with_mutable_data<T>(y, [&](auto* y_NO) {
        parallel_multiply<Panel<T>, T, W>(O ? y.numel() / O : 0, O, I, {x.const_data_ptr<T>(), I}, {w_OI, 1, I}, y_NO, O);
      });
    });
  });
  return y;
}

/// dx = g·W and dW = gᵀ·x where they are defined; they have the types of x and W.
void backward(const Tensor& x, const Tensor& w, const Tensor& g, const Tensor& dx, const Tensor& dw) {
  const int64_t O = w.size(0), I = w.size(1), N = O ? g.numel() / O : 0;
  AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, x.scalar_type(), "massif::linear", [&] {
    using T = scalar_t;
    with_data<T>(g, [&]<class G>(const G* g_NO) {
      if (dx.defined())
        with_data<T>(w, [&]<class W>(const W* w_OI) {
          parallel_multiply<Panel<T>, G, W>(N, I, O, {g_NO, O}, {w_OI, I}, dx.mutable_data_ptr<T>(), I);
        });
      if (dw.defined())
        with_mutable_data<T>(dw, [&](auto* dw_OI) {
          parallel_multiply<Panel<T>, G, T>(O, I, N, {g_NO, 1, O}, {x.const_data_ptr<T>(), I}, dw_OI, I);
        });
    });
  });
}

struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& w_, at::ScalarType out) {
    check(x_, w_, out);
    const Tensor x = x_.contiguous(), w = w_.contiguous();
    ctx->save_for_backward({x, w});
    return massif::forward(x, w, out);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::linear");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], g = grads[0].contiguous();
    Tensor dx, dw;
    if (ctx->needs_input_grad(0)) dx = g.numel() ? at::empty_like(x) : at::zeros_like(x);
    if (ctx->needs_input_grad(1)) dw = at::empty_like(w);
    massif::backward(x, w, g, dx, dw);
    return {dx, dw, Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("linear(Tensor x, Tensor weight_OI, ScalarType? dtype=None) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("linear", [](const Tensor& x, const Tensor& w, std::optional<at::ScalarType> dtype) {
    const auto out = dtype.value_or(x.scalar_type());
    check(x, w, out);
    return forward(x.contiguous(), w.contiguous(), out);
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("linear", [](const Tensor& x, const Tensor& w, std::optional<at::ScalarType> dtype) {
    return Linear::apply(x, w, dtype.value_or(x.scalar_type()));
  });
}

}  // namespace massif
