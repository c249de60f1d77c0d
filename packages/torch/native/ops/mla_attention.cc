// The core of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1), causal, rotary embedding inside:
//
//   q = [q_nope, R_i q_rope]    k = [k_nope, R_j k_pe]  (k_pe is one for all heads)
//   S_ij = scale · q_i·k_j      P_ij = e^(S_ij − lse_i)     out_i = Σ_j P_ij v_j      for doc_start_i ≤ j ≤ i
//   R_i turns the pair (x_2r, x_2r+1) by the angle of (cos_tr, sin_tr), t the place of i in its document
//
//   dv_j = Σ_i P_ij g_i         dS_ij = P_ij (g_i·v_j − g_i·out_i)
//   dq_i = R_iᵀ scale Σ_j dS_ij k_j       dk_j = R_jᵀ scale Σ_i dS_ij q_i      dk_pe sums over heads
//
// Documents may share their beginning: they lie behind it in the row, see it too (shared_i: from, to), and count on from it.
//
// In tiles of QUERIES × KEYS with a running maximum (FlashAttention-2, arXiv 2307.08691); tiles without a visible key
// are skipped. The maximum of S over visible pairs, which QK-Clip needs, falls out of the running maximum for nothing.
// One (batch, head) a task; mla_forward.h and mla_backward.h have its loops. B batch, T time, H heads, K = nope + rope,
// X = nope + V, R rope.
#include "mla_backward.h"
#include "mla_forward.h"

#include <ATen/ops/full.h>

namespace massif {
namespace {

using namespace mla;

Sizes check(const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
            const std::optional<Tensor>& doc_start, const std::optional<Tensor>& shared, int64_t nope, double scale) {
  constexpr auto op = "massif::mla_attention";
  TORCH_CHECK(q.dim() == 4 && kv.dim() == 4 && k_pe.dim() == 3, op, ": q, kv, k_pe are ", q.sizes(), ", ", kv.sizes(),
              ", ", k_pe.sizes(), ", expected [B, T, H, nope + rope], [B, T, H, nope + v], [B, T, rope]");
  const Sizes n{q.size(0), q.size(1), q.size(2), nope, k_pe.size(2), kv.size(3) - nope, scale};
  TORCH_CHECK(nope >= 0 && n.V >= 0 && n.rope % 2 == 0, op, ": nope ", nope, ", rope ", n.rope, ", v ", n.V,
              ", expected none negative and rope even");
  check_shape(op, "q", q, {n.B, n.T, n.H, n.K()});
  check_shape(op, "kv", kv, {n.B, n.T, n.H, n.X()});
  check_shape(op, "k_pe", k_pe, {n.B, n.T, n.rope});
  check_shape(op, "cos", cos, {n.T, n.rope / 2});
  check_shape(op, "sin", sin, {n.T, n.rope / 2});
  check_same_type(op, "kv", kv, q);
  check_same_type(op, "k_pe", k_pe, q);
  if (doc_start) {
    check_shape(op, "doc_start", *doc_start, {n.B, n.T});
    TORCH_CHECK(doc_start->scalar_type() == at::kInt, op, ": doc_start is ", doc_start->scalar_type(), ", expected int32");
  }
  if (shared) {
    TORCH_CHECK(doc_start, op, ": documents that share have starts: doc_start is missing");
    check_shape(op, "shared", *shared, {n.B, n.T, 2});
    TORCH_CHECK(shared->scalar_type() == at::kInt, op, ": shared is ", shared->scalar_type(), ", expected int32");
  }
  return n;
}

/// k_pe turned by its position's angle (or back), in the type of sums: [B, T, R].
template <class In, class Out, class T>
void rotate_keys(const Call<T>& c, const In* x, bool transposed, Out* y) {
  const Sizes& n = c.n;
  for (int64_t i = 0; i < n.B * n.T; i++) {
    const int64_t angle = c.angle(i / n.T, i % n.T);
    rotate(n.rope, x + i * n.rope, c.cos + angle, c.sin + angle, transposed, y + i * n.rope);
  }
}

/// Contiguous inputs; k_pe rotated, angles in the type of sums.
struct Inputs {
  Sizes n;
  Tensor q, kv, k_pe, cos, sin, doc_start, shared;

  static const int32_t* ints(const Tensor& t) { return t.defined() ? t.const_data_ptr<int32_t>() : nullptr; }
  template <class T>
  Call<T> call() const {
    using S = Sum<T>;
    return {n, q.const_data_ptr<T>(), kv.const_data_ptr<T>(), k_pe.const_data_ptr<S>(), cos.const_data_ptr<S>(),
            sin.const_data_ptr<S>(), {n.T, ints(doc_start), ints(shared)}};
  }
};

Inputs read(const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
            const std::optional<Tensor>& doc_start, const std::optional<Tensor>& shared, int64_t nope, double scale) {
  const Sizes n = check(q, kv, k_pe, cos, sin, doc_start, shared, nope, scale);
  const auto type = sum_type(q);
  Inputs in{n, q.contiguous(), kv.contiguous(), at::empty({n.B, n.T, n.rope}, q.options().dtype(type)),
            cos.to(type).contiguous(), sin.to(type).contiguous(), doc_start ? doc_start->contiguous() : Tensor(),
            shared ? shared->contiguous() : Tensor()};
  const Tensor key = k_pe.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, q.scalar_type(), "massif::mla_attention", [&] {
    using S = Sum<scalar_t>;
    rotate_keys(in.call<scalar_t>(), key.const_data_ptr<scalar_t>(), false, in.k_pe.mutable_data_ptr<S>());
  });
  return in;
}

/// out [B, T, H, V], lse [B, H, T], max_logit [H] in float.
std::tuple<Tensor, Tensor, Tensor> forward(const Inputs& in) {
  const Sizes& n = in.n;
  Tensor out = at::empty({n.B, n.T, n.H, n.V}, in.q.options());
  Tensor lse = at::empty({n.B, n.H, n.T}, in.k_pe.options());
  Tensor top = at::full({n.B + 1, n.H}, -std::numeric_limits<double>::infinity(), in.k_pe.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, in.q.scalar_type(), "massif::mla_attention", [&] {
    using S = Sum<scalar_t>;
    const auto call = in.call<scalar_t>();
    parallel_blocks(n.B * n.H, 1, [&](int64_t task, int64_t, int64_t) {
      const int64_t b = task / n.H, h = task % n.H;
      top.mutable_data_ptr<S>()[task] =
          forward_head(call, b, h, out.mutable_data_ptr<scalar_t>() + (b * n.T * n.H + h) * n.V,
                       lse.mutable_data_ptr<S>() + task * n.T);
    });
  });
  return {out, lse, top.amax(0).to(at::kFloat)};
}

/// dq, dkv, dk_pe.
std::tuple<Tensor, Tensor, Tensor> backward(const Inputs& in, const Tensor& out, const Tensor& lse, const Tensor& g) {
  const Sizes& n = in.n;
  Tensor dq = at::empty_like(in.q), dkv = at::empty_like(in.kv), dk_pe = at::empty(in.k_pe.sizes(), in.q.options());
  Tensor shares = at::empty({n.B, n.H, n.T, n.rope}, in.k_pe.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, in.q.scalar_type(), "massif::mla_attention", [&] {
    using S = Sum<scalar_t>;
    const auto call = in.call<scalar_t>();
    parallel_blocks(n.B * n.H, 1, [&](int64_t task, int64_t, int64_t) {
      const int64_t b = task / n.H, h = task % n.H, at = (b * n.T * n.H + h) * n.V;
      backward_head(call, b, h, out.const_data_ptr<scalar_t>() + at, lse.const_data_ptr<S>() + task * n.T,
                    g.const_data_ptr<scalar_t>() + at, dq.mutable_data_ptr<scalar_t>(), dkv.mutable_data_ptr<scalar_t>(),
                    shares.mutable_data_ptr<S>() + task * n.T * n.rope);
    });
    const Tensor sum = shares.sum(1);
    rotate_keys(call, sum.const_data_ptr<S>(), true, dk_pe.mutable_data_ptr<scalar_t>());
  });
  return {dq, dkv, dk_pe};
}

struct MlaAttention : torch::autograd::Function<MlaAttention> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                               const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& doc_start,
                               const std::optional<Tensor>& shared, int64_t nope, double scale) {
    const Inputs in = read(q, kv, k_pe, cos, sin, doc_start, shared, nope, scale);
    auto [out, lse, max_logit] = massif::forward(in);
    ctx->save_for_backward({in.q, in.kv, in.k_pe, in.cos, in.sin, in.doc_start, in.shared, out, lse});
    ctx->saved_data["nope"] = nope;
    ctx->saved_data["scale"] = scale;
    ctx->mark_non_differentiable({max_logit});
    return {out, max_logit};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::mla_attention");
    const auto s = ctx->get_saved_variables();
    const Tensor &q = s[0], &kv = s[1], &k_pe = s[2];
    const int64_t nope = ctx->saved_data["nope"].toInt();
    const Sizes n{q.size(0),       q.size(1), q.size(2), nope, k_pe.size(2), kv.size(3) - nope,
                  ctx->saved_data["scale"].toDouble()};
    auto [dq, dkv, dk_pe] = massif::backward({n, q, kv, k_pe, s[3], s[4], s[5], s[6]}, s[7], s[8], grads[0].contiguous());
    return {dq, dkv, dk_pe, Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "mla_attention(Tensor q_BTHK, Tensor kv_BTHX, Tensor k_pe_BTR, Tensor cos_TR2, Tensor sin_TR2, "
      "Tensor? doc_start_BT, Tensor? shared_BT2, int nope, float scale) -> (Tensor out_BTHV, Tensor max_logit_H)");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("mla_attention", [](const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
                             const std::optional<Tensor>& doc_start, const std::optional<Tensor>& shared,
                             int64_t nope, double scale) {
    auto [out, lse, max_logit] = forward(read(q, kv, k_pe, cos, sin, doc_start, shared, nope, scale));
    return std::make_tuple(out, max_logit);
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("mla_attention", [](const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
                             const std::optional<Tensor>& doc_start, const std::optional<Tensor>& shared,
                             int64_t nope, double scale) {
    const auto y = MlaAttention::apply(q, kv, k_pe, cos, sin, doc_start, shared, nope, scale);
    return std::make_tuple(y[0], y[1]);
  });
}

}  // namespace massif
