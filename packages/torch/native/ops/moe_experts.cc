// The routed experts of a mixture (DeepSeek-V3, arXiv 2412.19437 §2.1.2), without the shared one:
//
//   y_n = Σ_k w_nk · down_e h,  h = silu(a) · b,  [a, b] = gate_up_e x_n,  e = idx_nk
//
// Slots (n, k) are brought into expert order by a counting sort, so each expert is one dense product. The routing
// weight is folded into h' = w·h: y of a slot need not be kept, since dw = Σ dh'·h. With g = dy, per slot s of token n:
//
//   dh'_s = g_n down_e       d[a, b]_s = swiglu'(dh'_s)      dx_n = Σ_k d[a, b]_s gate_up_e
//   d down_e = Σ_s g_n h'_sᵀ           d gate_up_e = Σ_s d[a, b]_s x_nᵀ
//
// Threads share the slots evenly, whatever the experts' loads; for the weights' gradients they share each matrix's
// rows. What a product reads is kept as the product reads it (`Panel`: bfloat16 for bfloat16 on a CPU that multiplies
// it); weights and y may be float beside a bfloat16 x. N tokens, K experts a token, S = N·K slots, E experts, D width, I hidden width.
#include "op.h"
#include "swiglu.h"

#include <vector>

namespace massif {
namespace {

constexpr int64_t ROWS = 96, GRAIN = 32;  // slots a tile; fewest slots worth a thread
constexpr int64_t FEW = Tile<float>::ROWS;  // of an expert's slots: fewer do not pay for packing its matrices

struct Sizes {
  int64_t N, K, E, D, I;
  int64_t slots() const { return N * K; }
};

/// Slots in expert order: those of expert e are first[e] … first[e + 1] − 1; place[n·K + k] is where slot (n, k) went.
struct Order {
  std::vector<int64_t> first, place, token;

  Order(const Sizes& n, const int64_t* idx) : first(n.E + 1), place(n.slots()), token(n.slots()) {
    for (int64_t s = 0; s < n.slots(); s++) first[idx[s] + 1]++;
    for (int64_t e = 0; e < n.E; e++) first[e + 1] += first[e];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t s = 0; s < n.slots(); s++) token[place[s] = next[idx[s]]++] = s / n.K;
  }

  /// f(expert, from, to) for the parts of slots begin … end − 1.
  template <class F>
  void experts(int64_t begin, int64_t end, const F& f) const {
    for (int64_t e = 0; e + 1 < int64_t(first.size()); e++)
      if (const int64_t from = std::max(first[e], begin), to = std::min(first[e + 1], end); from < to) f(e, from, to);
  }
};

/// Rows of x [N, D] for slots from … to − 1.
template <class In, class P>
void gather(const Order& order, int64_t D, const In* x, int64_t from, int64_t to, P* rows) {
  for (int64_t s = from; s < to; s++, rows += D) {
    const In* row = x + order.token[s] * D;
    if constexpr (std::is_same_v<In, P>)
      std::copy_n(row, D, rows);
    else
      for (int64_t d = 0; d < D; d += LANES<Sum<In>>) store<Sum<In>>(rows + d, load<Sum<In>>(row + d, D - d), D - d);
  }
}

/// y_n = Σ_k of the slots of n, in the order of k.
template <class T, class Y>
void combine(const Sizes& n, const Order& order, const T* slots_SD, Y* y) {
  using S = Sum<T>;
  at::parallel_for(0, n.N, GRAIN, [&](int64_t from, int64_t to) {
    for (int64_t t = from; t < to; t++)
      for (int64_t d = 0; d < n.D; d += LANES<S>) {
        Vec<S> sum = {};
        for (int64_t k = 0; k < n.K; k++) sum += load<S>(slots_SD + order.place[t * n.K + k] * n.D + d, n.D - d);
        store<S>(y + t * n.D + d, sum, n.D - d);
      }
  });
}

/// gate_up_S2I: the projections of every slot, in expert order; out_SD: w · expert(x).
template <class T, class W, class S>
void forward_slots(const Sizes& n, const Order& order, const T* x, const S* w, const W* gate_up, const W* down,
                   T* gate_up_S2I, T* out_SD) {
  using P = Panel<T>;
  constexpr int64_t WORTH_A_THREAD = 1 << 17;  // multiply-adds
  const int64_t grain = std::clamp<int64_t>(WORTH_A_THREAD / std::max<int64_t>(1, 3 * n.D * n.I), 1, GRAIN);
  at::parallel_for(0, n.slots(), grain, [&](int64_t begin, int64_t end) {
    const int64_t up_size = packed_size<P>(n.D, 2 * n.I), down_size = packed_size<P>(n.I, n.D);
    static thread_local Scratch<P> scratch;
    static thread_local Scratch<T> gathered;
    P *up_D2I = scratch.get(up_size + down_size + ROWS * n.I), *down_ID = up_D2I + up_size, *h = down_ID + down_size;
    T* rows_D = gathered.get(ROWS * n.D);
    order.experts(begin, end, [&](int64_t e, int64_t from, int64_t to) {
      const Mat<const W> up_e{gate_up + e * 2 * n.I * n.D, 1, n.D}, down_e{down + e * n.D * n.I, 1, n.I};
      const bool few = to - from <= FEW;
      if (!few) pack<P, W>(n.D, 2 * n.I, up_e, up_D2I), pack<P, W>(n.I, n.D, down_e, down_ID);
      for (int64_t s = from; s < to; s += ROWS) {
        const int64_t rows = std::min(ROWS, to - s);
        T* projected = gate_up_S2I + s * 2 * n.I;
        gather(order, n.D, x, s, s + rows, rows_D);
        if (few)
          multiply<P, T, W>(rows, 2 * n.I, n.D, {rows_D, n.D}, up_e, projected, 2 * n.I);
        else
          multiply_packed<P, T>(rows, 2 * n.I, n.D, {rows_D, n.D}, up_D2I, projected, 2 * n.I);
        for (int64_t r = 0; r < rows; r++) swiglu_row(n.I, projected + r * 2 * n.I, w[s + r], h + r * n.I);
        if (few)
          multiply<P, P, W>(rows, n.D, n.I, {h, n.I}, down_e, out_SD + s * n.D, n.D);
        else
          multiply_packed<P, P>(rows, n.D, n.I, {h, n.I}, down_ID, out_SD + s * n.D, n.D);
      }
    });
  });
}

/// h_SI = w·h and d_S2I = d[a, b] of every slot, dw of every slot, dx_SD the slots' shares of dx.
template <class T, class W, class S, class P = Panel<T>>
void backward_slots(const Sizes& n, const Order& order, const P* g_SD, const S* w, const W* gate_up, const W* down,
                    const T* gate_up_S2I, P* h_SI, P* d_S2I, S* dw, T* dx_SD) {
  at::parallel_for(0, n.slots(), GRAIN, [&](int64_t begin, int64_t end) {
    const int64_t up_size = packed_size<P>(2 * n.I, n.D), down_size = packed_size<P>(n.D, n.I);
    static thread_local Scratch<P> scratch;
    static thread_local Scratch<S> sums;
    P *up_2ID = scratch.get(up_size + down_size), *down_DI = up_2ID + up_size;
    S* dh = sums.get(ROWS * n.I);
    order.experts(begin, end, [&](int64_t e, int64_t from, int64_t to) {
      pack<P, W>(2 * n.I, n.D, {gate_up + e * 2 * n.I * n.D, n.D}, up_2ID);
      pack<P, W>(n.D, n.I, {down + e * n.D * n.I, n.I}, down_DI);
      for (int64_t s = from; s < to; s += ROWS) {
        const int64_t rows = std::min(ROWS, to - s);
        multiply_packed<P, P>(rows, n.I, n.D, {g_SD + s * n.D, n.D}, down_DI, dh, n.I);
        for (int64_t r = s; r < s + rows; r++) {
          const T* projected = gate_up_S2I + r * 2 * n.I;
          swiglu_row(n.I, projected, w[r], h_SI + r * n.I);
          dw[r] = swiglu_row_backward(n.I, projected, w[r], dh + (r - s) * n.I, d_S2I + r * 2 * n.I);
        }
        multiply_packed<P, P>(rows, n.D, 2 * n.I, {d_S2I + s * 2 * n.I, 2 * n.I}, up_2ID, dx_SD + s * n.D, n.D);
      }
    });
  });
}

/// dW_EAB = Σ over an expert's slots of a_sᵀ b_s: [A, B] each. A thread owns some of the A rows of every expert.
template <class P, class W>
void weight_gradients(const Sizes& n, const Order& order, int64_t A, int64_t B, const P* a_SA, const P* b_SB, W* dW) {
  at::parallel_for(0, A, Tile<P>::ROWS, [&](int64_t from, int64_t to) {
    for (int64_t e = 0; e < n.E; e++) {
      const int64_t s = order.first[e], count = order.first[e + 1] - s;
      multiply<P, P, P>(to - from, B, count, {a_SA + s * A + from, 1, A}, {b_SB + s * B, B},
                        dW + (e * A + from) * B, B);  // zeros where no token came
    }
  });
}

Sizes check(const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down,
            at::ScalarType out) {
  constexpr auto op = "massif::moe_experts";
  TORCH_CHECK(x.dim() == 2 && idx.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3, op, ": x, idx, gate_up, down are ",
              x.sizes(), ", ", idx.sizes(), ", ", gate_up.sizes(), ", ", down.sizes(),
              ", expected [N, D], [N, K], [E, 2I, D], [E, D, I]");
  const Sizes n{x.size(0), idx.size(1), gate_up.size(0), x.size(1), down.size(2)};
  check_shape(op, "idx", idx, {n.N, n.K});
  check_shape(op, "w", w, {n.N, n.K});
  check_shape(op, "gate_up", gate_up, {n.E, 2 * n.I, n.D});
  check_shape(op, "down", down, {n.E, n.D, n.I});
  check_same_or_wide(op, "gate_up", gate_up.scalar_type(), x);
  check_same_type(op, "down", down, gate_up);
  check_same_or_wide(op, "the result", out, x);
  TORCH_CHECK(idx.scalar_type() == at::kLong, op, ": idx is ", idx.scalar_type(), ", expected int64");
  TORCH_CHECK(idx.is_contiguous(), op, ": idx must have been made contiguous");
  const int64_t* e = idx.const_data_ptr<int64_t>();
  for (int64_t s = 0; s < n.slots(); s++)
    TORCH_CHECK_INDEX(e[s] >= 0 && e[s] < n.E, op, ": idx holds expert ", e[s], ", expected 0 … ", n.E - 1);
  return n;
}

/// Routing weights in the type of sums, in expert order.
Tensor sorted_weights(const Sizes& n, const Order& order, const Tensor& w, const Tensor& x) {
  const Tensor given = w.to(sum_type(x)).contiguous();
  Tensor sorted = at::empty({n.slots()}, given.options());
  AT_DISPATCH_FLOATING_TYPES(given.scalar_type(), "massif::moe_experts", [&] {
    for (int64_t s = 0; s < n.slots(); s++)
      sorted.mutable_data_ptr<scalar_t>()[order.place[s]] = given.const_data_ptr<scalar_t>()[s];
  });
  return sorted;
}

/// y [N, D] and the projections [S, 2I] in x's type.
std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up,
                                  const Tensor& down, at::ScalarType out) {
  const Sizes n = check(x, idx, w, gate_up, down, out);
  const Order order(n, idx.const_data_ptr<int64_t>());
  const Tensor weights = sorted_weights(n, order, w, x);
  Tensor y = at::empty({n.N, n.D}, x.options().dtype(out)), projected = at::empty({n.slots(), 2 * n.I}, x.options());
  Tensor slots = at::empty({n.slots(), n.D}, x.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::moe_experts", [&] {
    using T = scalar_t;
    with_data<T>(gate_up, [&]<class W>(const W* up) {
      forward_slots(n, order, x.const_data_ptr<T>(), weights.const_data_ptr<Sum<T>>(), up, down.const_data_ptr<W>(),
                    projected.mutable_data_ptr<T>(), slots.mutable_data_ptr<T>());
    });
    with_mutable_data<T>(y, [&](auto* y_ND) { combine(n, order, slots.const_data_ptr<T>(), y_ND); });
  });
  return {y, projected};
}

struct Gradients {
  Tensor x, w, gate_up, down;
};

Gradients backward(const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down,
                   const Tensor& projected, const Tensor& g) {
  const Sizes n{x.size(0), idx.size(1), gate_up.size(0), x.size(1), down.size(2)};
  const Order order(n, idx.const_data_ptr<int64_t>());
  const Tensor weights = sorted_weights(n, order, w, x);
  Gradients d{at::empty_like(x), at::empty({n.N, n.K}, weights.options()), at::empty_like(gate_up), at::empty_like(down)};
  Tensor dx_slots = at::empty({n.slots(), n.D}, x.options()), dw_slots = at::empty({n.slots()}, weights.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::moe_experts", [&] {
    using T = scalar_t;
    using S = Sum<T>;
    using P = Panel<T>;
    const auto operands = x.options().dtype(c10::CppTypeToScalarType<P>::value);
    Tensor rows = at::empty({n.slots(), n.D}, operands), h = at::empty({n.slots(), n.I}, operands);
    Tensor projected_grad = at::empty({n.slots(), 2 * n.I}, operands);
    P *rows_SD = rows.mutable_data_ptr<P>(), *h_SI = h.mutable_data_ptr<P>(), *d_S2I = projected_grad.mutable_data_ptr<P>();
    const auto read = [&](const auto* source_ND) {
      at::parallel_for(0, n.slots(), GRAIN, [&](int64_t from, int64_t to) {
        gather(order, n.D, source_ND, from, to, rows_SD + from * n.D);
      });
    };
    with_data<T>(g, read);
    with_data<T>(gate_up, [&]<class W>(const W* up) {
      backward_slots(n, order, rows_SD, weights.const_data_ptr<S>(), up, down.const_data_ptr<W>(),
                     projected.const_data_ptr<T>(), h_SI, d_S2I, dw_slots.mutable_data_ptr<S>(),
                     dx_slots.mutable_data_ptr<T>());
      weight_gradients(n, order, n.D, n.I, rows_SD, h_SI, d.down.mutable_data_ptr<W>());
      read(x.const_data_ptr<T>());
      weight_gradients(n, order, 2 * n.I, n.D, d_S2I, rows_SD, d.gate_up.mutable_data_ptr<W>());
    });
    combine(n, order, dx_slots.const_data_ptr<T>(), d.x.mutable_data_ptr<T>());
    for (int64_t s = 0; s < n.slots(); s++)
      d.w.mutable_data_ptr<S>()[s] = dw_slots.const_data_ptr<S>()[order.place[s]];
  });
  return d;
}

struct MoeExperts : torch::autograd::Function<MoeExperts> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& idx_, const Tensor& w, const Tensor& gate_up_,
                        const Tensor& down_, at::ScalarType out) {
    const Tensor x = x_.contiguous(), idx = idx_.contiguous();
    const Tensor gate_up = gate_up_.contiguous(), down = down_.contiguous();
    auto [y, projected] = massif::forward(x, idx, w, gate_up, down, out);
    ctx->save_for_backward({x, idx, w, gate_up, down, projected});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::moe_experts");
    const auto s = ctx->get_saved_variables();
    const Gradients d = massif::backward(s[0], s[1], s[2], s[3], s[4], s[5], grads[0].contiguous());
    return {d.x, Tensor(), d.w.to(s[2].scalar_type()), d.gate_up, d.down, Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "moe_experts(Tensor x_ND, Tensor idx_NK, Tensor w_NK, Tensor gate_up_E2ID, Tensor down_EDI, "
      "ScalarType? dtype=None) -> Tensor y_ND");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("moe_experts", [](const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down,
                           std::optional<at::ScalarType> dtype) {
    return forward(x.contiguous(), idx.contiguous(), w, gate_up.contiguous(), down.contiguous(),
                   dtype.value_or(x.scalar_type()))
        .first;
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("moe_experts", [](const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down,
                           std::optional<at::ScalarType> dtype) {
    return MoeExperts::apply(x, idx, w, gate_up, down, dtype.value_or(x.scalar_type()));
  });
}

}  // namespace massif
