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
// rows. N tokens, K experts a token, S = N·K slots, E experts, D width, I hidden width.
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

template <class T>
void gather(const Order& order, int64_t D, const T* x, int64_t from, int64_t to, T* rows) {
  for (int64_t s = from; s < to; s++) std::copy_n(x + order.token[s] * D, D, rows + (s - from) * D);
}

/// y_n = Σ_k of the slots of n, in the order of k.
template <class T, class S>
void combine(const Sizes& n, const Order& order, const S* slots_SD, T* y) {
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
template <class T, class S>
void forward_slots(const Sizes& n, const Order& order, const T* x, const S* w, const T* gate_up, const T* down,
                   S* gate_up_S2I, S* out_SD) {
  constexpr int64_t WORTH_A_THREAD = 1 << 17;  // multiply-adds
  const int64_t grain = std::clamp<int64_t>(WORTH_A_THREAD / std::max<int64_t>(1, 3 * n.D * n.I), 1, GRAIN);
  at::parallel_for(0, n.slots(), grain, [&](int64_t begin, int64_t end) {
    const int64_t up_size = packed_size<S>(n.D, 2 * n.I), down_size = packed_size<S>(n.I, n.D);
    static thread_local Scratch<S> scratch;
    static thread_local Scratch<T> gathered;
    S *up_D2I = scratch.get(up_size + down_size + ROWS * n.I), *down_ID = up_D2I + up_size, *h = down_ID + down_size;
    T* rows_D = gathered.get(ROWS * n.D);
    order.experts(begin, end, [&](int64_t e, int64_t from, int64_t to) {
      const Mat<const T> up_e{gate_up + e * 2 * n.I * n.D, 1, n.D}, down_e{down + e * n.D * n.I, 1, n.I};
      const bool few = to - from <= FEW;
      if (!few) pack<S, T>(n.D, 2 * n.I, up_e, up_D2I), pack<S, T>(n.I, n.D, down_e, down_ID);
      for (int64_t s = from; s < to; s += ROWS) {
        const int64_t rows = std::min(ROWS, to - s);
        S* projected = gate_up_S2I + s * 2 * n.I;
        gather(order, n.D, x, s, s + rows, rows_D);
        if (few)
          multiply<S, T, T>(rows, 2 * n.I, n.D, {rows_D, n.D}, up_e, projected, 2 * n.I);
        else
          multiply_packed<S, T>(rows, 2 * n.I, n.D, {rows_D, n.D}, up_D2I, projected, 2 * n.I);
        for (int64_t r = 0; r < rows; r++) swiglu_row(n.I, projected + r * 2 * n.I, w[s + r], h + r * n.I);
        if (few)
          multiply<S, S, T>(rows, n.D, n.I, {h, n.I}, down_e, out_SD + s * n.D, n.D);
        else
          multiply_packed<S, S>(rows, n.D, n.I, {h, n.I}, down_ID, out_SD + s * n.D, n.D);
      }
    });
  });
}

/// h_SI = w·h and d_S2I = d[a, b] of every slot, dw of every slot, dx_SD the slots' shares of dx.
template <class T, class S>
void backward_slots(const Sizes& n, const Order& order, const T* g_SD, const S* w, const T* gate_up, const T* down,
                    const S* gate_up_S2I, S* h_SI, S* d_S2I, S* dw, S* dx_SD) {
  at::parallel_for(0, n.slots(), GRAIN, [&](int64_t begin, int64_t end) {
    const int64_t up_size = packed_size<S>(2 * n.I, n.D), down_size = packed_size<S>(n.D, n.I);
    static thread_local Scratch<S> scratch;
    S *up_2ID = scratch.get(up_size + down_size + ROWS * n.I), *down_DI = up_2ID + up_size, *dh = down_DI + down_size;
    order.experts(begin, end, [&](int64_t e, int64_t from, int64_t to) {
      pack<S, T>(2 * n.I, n.D, {gate_up + e * 2 * n.I * n.D, n.D}, up_2ID);
      pack<S, T>(n.D, n.I, {down + e * n.D * n.I, n.I}, down_DI);
      for (int64_t s = from; s < to; s += ROWS) {
        const int64_t rows = std::min(ROWS, to - s);
        multiply_packed<S, T>(rows, n.I, n.D, {g_SD + s * n.D, n.D}, down_DI, dh, n.I);
        for (int64_t r = s; r < s + rows; r++) {
          const S* projected = gate_up_S2I + r * 2 * n.I;
          swiglu_row(n.I, projected, w[r], h_SI + r * n.I);
          dw[r] = swiglu_row_backward(n.I, projected, w[r], dh + (r - s) * n.I, d_S2I + r * 2 * n.I);
        }
        multiply_packed<S, S>(rows, n.D, 2 * n.I, {d_S2I + s * 2 * n.I, 2 * n.I}, up_2ID, dx_SD + s * n.D, n.D);
      }
    });
  });
}

/// dW_EAB = Σ over an expert's slots of a_sᵀ b_s: [A, B] each. A thread owns some of the A rows of every expert.
template <class S, class InA, class InB>
void weight_gradients(const Sizes& n, const Order& order, int64_t A, int64_t B, const InA* a_SA, const InB* b_SB, S* dW) {
  at::parallel_for(0, A, Tile<S>::ROWS, [&](int64_t from, int64_t to) {
    for (int64_t e = 0; e < n.E; e++) {
      const int64_t s = order.first[e], count = order.first[e + 1] - s;
      multiply<S, InA, InB>(to - from, B, count, {a_SA + s * A + from, 1, A}, {b_SB + s * B, B},
                            dW + (e * A + from) * B, B);  // zeros where no token came
    }
  });
}

Sizes check(const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down) {
  constexpr auto op = "massif::moe_experts";
  TORCH_CHECK(x.dim() == 2 && idx.dim() == 2 && gate_up.dim() == 3 && down.dim() == 3, op, ": x, idx, gate_up, down are ",
              x.sizes(), ", ", idx.sizes(), ", ", gate_up.sizes(), ", ", down.sizes(),
              ", expected [N, D], [N, K], [E, 2I, D], [E, D, I]");
  const Sizes n{x.size(0), idx.size(1), gate_up.size(0), x.size(1), down.size(2)};
  check_shape(op, "idx", idx, {n.N, n.K});
  check_shape(op, "w", w, {n.N, n.K});
  check_shape(op, "gate_up", gate_up, {n.E, 2 * n.I, n.D});
  check_shape(op, "down", down, {n.E, n.D, n.I});
  check_same_type(op, "gate_up", gate_up, x);
  check_same_type(op, "down", down, x);
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

/// y [N, D] and the projections [S, 2I] in the type of sums.
std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up,
                                  const Tensor& down) {
  const Sizes n = check(x, idx, w, gate_up, down);
  const Order order(n, idx.const_data_ptr<int64_t>());
  const Tensor weights = sorted_weights(n, order, w, x);
  Tensor y = at::empty_like(x), projected = at::empty({n.slots(), 2 * n.I}, weights.options());
  Tensor out = at::empty({n.slots(), n.D}, weights.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::moe_experts", [&] {
    using S = Sum<scalar_t>;
    forward_slots(n, order, x.const_data_ptr<scalar_t>(), weights.const_data_ptr<S>(),
                  gate_up.const_data_ptr<scalar_t>(), down.const_data_ptr<scalar_t>(), projected.mutable_data_ptr<S>(),
                  out.mutable_data_ptr<S>());
    combine(n, order, out.const_data_ptr<S>(), y.mutable_data_ptr<scalar_t>());
  });
  return {y, projected};
}

struct MoeExperts : torch::autograd::Function<MoeExperts> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& idx_, const Tensor& w, const Tensor& gate_up_,
                        const Tensor& down_) {
    const Tensor x = x_.contiguous(), idx = idx_.contiguous();
    const Tensor gate_up = gate_up_.contiguous(), down = down_.contiguous();
    auto [y, projected] = massif::forward(x, idx, w, gate_up, down);
    ctx->save_for_backward({x, idx, w, gate_up, down, projected});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::moe_experts");
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &idx = saved[1], &w = saved[2], &gate_up = saved[3], &down = saved[4];
    const Tensor g = grads[0].contiguous(), &projected = saved[5];
    const Sizes n{x.size(0), idx.size(1), gate_up.size(0), x.size(1), down.size(2)};
    const Order order(n, idx.const_data_ptr<int64_t>());
    const Tensor weights = sorted_weights(n, order, w, x);
    const auto sums = weights.options();
    Tensor rows = at::empty({n.slots(), n.D}, x.options()), dx_slots = at::empty({n.slots(), n.D}, sums);
    Tensor h = at::empty({n.slots(), n.I}, sums), d = at::empty({n.slots(), 2 * n.I}, sums);
    Tensor dw_slots = at::empty({n.slots()}, sums), dw = at::empty({n.N, n.K}, sums), dx = at::empty_like(x);
    Tensor d_gate_up = at::empty(gate_up.sizes(), sums), d_down = at::empty(down.sizes(), sums);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::moe_experts", [&] {
      using T = scalar_t;
      using S = Sum<T>;
      T* rows_SD = rows.mutable_data_ptr<T>();
      const auto read = [&](const Tensor& source) {
        at::parallel_for(0, n.slots(), GRAIN, [&](int64_t from, int64_t to) {
          gather(order, n.D, source.const_data_ptr<T>(), from, to, rows_SD + from * n.D);
        });
      };
      read(g);
      backward_slots(n, order, rows_SD, weights.const_data_ptr<S>(), gate_up.const_data_ptr<T>(),
                     down.const_data_ptr<T>(), projected.const_data_ptr<S>(), h.mutable_data_ptr<S>(),
                     d.mutable_data_ptr<S>(), dw_slots.mutable_data_ptr<S>(), dx_slots.mutable_data_ptr<S>());
      weight_gradients<S, T, S>(n, order, n.D, n.I, rows_SD, h.const_data_ptr<S>(), d_down.mutable_data_ptr<S>());
      read(x);
      weight_gradients<S, S, T>(n, order, 2 * n.I, n.D, d.const_data_ptr<S>(), rows_SD, d_gate_up.mutable_data_ptr<S>());
      combine(n, order, dx_slots.const_data_ptr<S>(), dx.mutable_data_ptr<T>());
      for (int64_t s = 0; s < n.slots(); s++)
        dw.mutable_data_ptr<S>()[s] = dw_slots.const_data_ptr<S>()[order.place[s]];
    });
    return {dx, Tensor(), dw.to(w.scalar_type()), d_gate_up.to(x.scalar_type()), d_down.to(x.scalar_type())};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def("moe_experts(Tensor x_ND, Tensor idx_NK, Tensor w_NK, Tensor gate_up_E2ID, Tensor down_EDI) -> Tensor y_ND");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("moe_experts", [](const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down) {
    return forward(x.contiguous(), idx.contiguous(), w, gate_up.contiguous(), down.contiguous()).first;
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("moe_experts", [](const Tensor& x, const Tensor& idx, const Tensor& w, const Tensor& gate_up, const Tensor& down) {
    return MoeExperts::apply(x, idx, w, gate_up, down);
  });
}

}  // namespace massif
