// SwiGLU (Shazeer, arXiv 2002.05202) on the two halves of one projection, I = hidden width:
//
//   [a, b] = gate_up_N2I        h = silu(a) · b,  silu(a) = a·σ(a)
//   da = g · b · σ(a)·(1 + a·(1 − σ(a)))        db = g · silu(a)
//
// Nothing but the input is kept.
#include "op.h"
#include "swiglu.h"

namespace massif {
namespace {

constexpr int64_t BLOCK = 64;  // rows a task

Tensor forward(const Tensor& gate_up) {
  TORCH_CHECK(gate_up.dim() >= 1 && gate_up.size(-1) % 2 == 0, "massif::swiglu: gate_up is ", gate_up.sizes(),
              ", expected [..., 2I]");
  auto shape = gate_up.sizes().vec();
  const int64_t I = shape.back() /= 2;
  Tensor h = at::empty(shape, gate_up.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate_up.scalar_type(), "massif::swiglu", [&] {
    parallel_blocks(I ? h.numel() / I : 0, BLOCK, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t n = from; n < to; n++)
        swiglu_row<scalar_t>(I, gate_up.const_data_ptr<scalar_t>() + n * 2 * I, Sum<scalar_t>(1),
                             h.mutable_data_ptr<scalar_t>() + n * I);
    });
  });
  return h;
}

Tensor backward(const Tensor& gate_up, const Tensor& g) {
  const int64_t I = g.size(-1);
  Tensor d = at::empty_like(gate_up);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, gate_up.scalar_type(), "massif::swiglu", [&] {
    parallel_blocks(I ? g.numel() / I : 0, BLOCK, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t n = from; n < to; n++)
        swiglu_row_backward<scalar_t>(I, gate_up.const_data_ptr<scalar_t>() + n * 2 * I, Sum<scalar_t>(1),
                                      g.const_data_ptr<scalar_t>() + n * I, d.mutable_data_ptr<scalar_t>() + n * 2 * I);
    });
  });
  return d;
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_up_) {
    const Tensor gate_up = gate_up_.contiguous();
    ctx->save_for_backward({gate_up});
    return massif::forward(gate_up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::swiglu");
    return {massif::backward(ctx->get_saved_variables()[0], grads[0].contiguous())};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("swiglu(Tensor gate_up) -> Tensor"); }
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("swiglu", [](const Tensor& gate_up) { return forward(gate_up.contiguous()); });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("swiglu", [](const Tensor& gate_up) { return Swiglu::apply(gate_up); });
}

}  // namespace massif
