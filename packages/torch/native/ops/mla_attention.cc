// The core of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1), causal, rotary embedding inside:
//
//   q = [q_nope, R_i q_rope]    k = [k_nope, R_j k_pe]  (k_pe is one for all heads)
//   S_ij = scale · q_i·k_j      P_ij = e^(S_ij − lse_i)     out_i = Σ_j P_ij v_j      for doc_start_i ≤ j ≤ i
//   R_t turns the pair (x_2r, x_2r+1) by the angle of (cos_tr, sin_tr)
//
//   dv_j = Σ_i P_ij g_i         dS_ij = P_ij (g_i·v_j − g_i·out_i)
//   dq_i = R_iᵀ scale Σ_j dS_ij k_j       dk_j = R_jᵀ scale Σ_i dS_ij q_i      dk_pe sums over heads
//
// In tiles of QUERIES × KEYS with a running maximum (FlashAttention-2, arXiv 2307.08691); tiles without a visible key
// are skipped. The maximum of S over visible pairs, which QK-Clip needs, falls out of the running maximum for nothing.
// One (batch, head) a task. B batch, T time, H heads, K = nope + rope, X = nope + V, R rope.
#include "op.h"

#include <ATen/ops/full.h>

#include <limits>

namespace massif {
namespace {

constexpr int64_t QUERIES = 48, KEYS = 256;
constexpr int64_t LINE = KEYS + 16;  // row stride of a tile: off the power of two, so rows do not share cache sets

struct Sizes {
  int64_t B, T, H, nope, rope, V;
  double scale;
  int64_t K() const { return nope + rope; }
  int64_t X() const { return nope + V; }
};

/// y = R_t x (or its transpose): pairs (2r, 2r + 1). y may be x.
template <class In, class Out, class S>
void rotate(int64_t R, const In* x, const S* cos, const S* sin, bool transposed, Out* y) {
  for (int64_t r = 0; r < R / 2; r++) {
    const S a = x[2 * r], b = x[2 * r + 1], c = cos[r], s = transposed ? -sin[r] : sin[r];
    y[2 * r] = Out(a * c - b * s);
    y[2 * r + 1] = Out(a * s + b * c);
  }
}

/// Pointers of one call; S is the type of sums. k_pe is rotated already.
template <class T, class S>
struct Call {
  Sizes n;
  const T *q, *kv;
  const S *k_pe, *cos, *sin;
  const int32_t* doc_start;  // null: one document a row

  const T* query(int64_t b, int64_t t, int64_t h) const { return q + ((b * n.T + t) * n.H + h) * n.K(); }
  Mat<const T> values(int64_t b, int64_t t, int64_t h) const {
    return {kv + ((b * n.T + t) * n.H + h) * n.X() + n.nope, n.H * n.X()};
  }
  int64_t first_key(int64_t b, int64_t t) const {
    return doc_start ? std::clamp<int64_t>(doc_start[b * n.T + t], 0, t + 1) : 0;
  }
  int64_t first_key(int64_t b, int64_t from, int64_t to) const {
    int64_t first = to;
    for (int64_t t = from; t < to; t++) first = std::min(first, first_key(b, t));
    return first;
  }
  /// Queries from … to − 1 of one head, rotated: [to − from, K].
  void read_queries(int64_t b, int64_t h, int64_t from, int64_t to, S* out) const {
    for (int64_t t = from; t < to; t++, out += n.K()) {
      const T* x = query(b, t, h);
      for (int64_t d = 0; d < n.nope; d++) out[d] = S(x[d]);
      rotate(n.rope, x + n.nope, cos + t * n.rope / 2, sin + t * n.rope / 2, false, out + n.nope);
    }
  }
  /// All keys of one head: [T, K].
  void read_keys(int64_t b, int64_t h, S* out) const {
    for (int64_t t = 0; t < n.T; t++, out += n.K()) {
      const T* x = kv + ((b * n.T + t) * n.H + h) * n.X();
      for (int64_t d = 0; d < n.nope; d++) out[d] = S(x[d]);
      std::copy_n(k_pe + (b * n.T + t) * n.rope, n.rope, out + n.nope);
    }
  }
};

/// A matrix [K, N] packed block by block along `T`: block i of KEYS starts at i · stride.
template <class S>
struct Blocks {
  S* at;
  int64_t stride;
  S* operator[](int64_t first) const { return at + first / KEYS * stride; }
};

/// Cuts one allocation into arrays that start on cache lines.
template <class S>
struct Cut {
  S* at;
  static int64_t round(int64_t n) { return (n + 63) / 64 * 64; }
  S* operator()(int64_t n) { return std::exchange(at, at + round(n)); }
};

/// Row s[from, to) of a tile → e^(s − m) and zeros elsewhere in [0, width). Updates maximum m and sum l; returns the
/// factor that what was summed before must shrink by.
template <class S>
S softmax_row(S* s, int64_t from, int64_t to, int64_t width, S& m, S& l) {
  constexpr int64_t L = LANES<S>;
  Vec<S> top = splat(-std::numeric_limits<S>::infinity()), sum = {};
  for (int64_t j = from; j < to; j += L) top = maximum<S>(top, keep<S>(load<S>(s + j), to - j, top[0]));
  const S before = m;
  m = std::max(m, lane_max<S>(top));
  for (int64_t j = from; j < to; j += L) {
    const Vec<S> p = keep<S>(exp(load<S>(s + j) - m), to - j, S(0));
    sum += p;
    store<S>(s + j, p);
  }
  for (int64_t j = 0; j < from; j++) s[j] = 0;
  for (int64_t j = to; j < width; j++) s[j] = 0;
  const S shrink = before == m ? S(1) : std::exp(before - m);
  l = l * shrink + lane_sum<S>(sum);
  return shrink;
}

/// out [T, V] with row stride H·V, lse [T], for one (b, h). Returns the maximum of S.
template <class T, class S>
S forward_head(const Call<T, S>& c, int64_t b, int64_t h, T* out, S* lse) {
  const Sizes& n = c.n;
  const int64_t K = n.K(), V = n.V, blocks = blocks_of(n.T, KEYS);
  const int64_t keys_size = packed_size<S>(K, KEYS), values_size = packed_size<S>(KEYS, V);
  static thread_local Scratch<S> scratch;
  Cut<S> cut{scratch.get(blocks * (keys_size + values_size) + n.T * K + QUERIES * (K + LINE + V) + 512)};
  const Blocks<S> keys_KT{cut(blocks * keys_size), keys_size}, values_TV{cut(blocks * values_size), values_size};
  S *k_TK = cut(n.T * K), *q_QK = cut(QUERIES * K), *s_QT = cut(QUERIES * LINE), *o_QV = cut(QUERIES * V);

  c.read_keys(b, h, k_TK);
  for (int64_t j = 0; j < n.T; j += KEYS) {
    const int64_t width = std::min(KEYS, n.T - j);
    pack<S, S>(K, width, {k_TK + j * K, 1, K}, keys_KT[j]);
    pack<S, T>(width, V, c.values(b, j, h), values_TV[j]);
  }
  S top = -std::numeric_limits<S>::infinity();
  for (int64_t i = 0; i < n.T; i += QUERIES) {
    const int64_t rows = std::min(QUERIES, n.T - i), end = i + rows;
    S m[QUERIES], l[QUERIES] = {};
    std::fill_n(m, rows, -std::numeric_limits<S>::infinity());
    std::fill_n(o_QV, rows * V, S(0));
    c.read_queries(b, h, i, end, q_QK);
    for (int64_t j = c.first_key(b, i, end) / KEYS * KEYS; j < end; j += KEYS) {
      const int64_t width = std::min(KEYS, end - j), packed = std::min(KEYS, n.T - j);
      multiply_packed<S, S>(rows, width, K, {q_QK, K}, keys_KT[j], s_QT, LINE, false, S(n.scale));
      for (int64_t r = 0; r < rows; r++) {
        const int64_t to = std::clamp<int64_t>(i + r + 1 - j, 0, width);
        const int64_t from = std::clamp<int64_t>(c.first_key(b, i + r) - j, 0, to);
        const S shrink = softmax_row(s_QT + r * LINE, from, to, width, m[r], l[r]);
        if (shrink != 1)
          for (int64_t d = 0; d < V; d++) o_QV[r * V + d] *= shrink;
      }
      multiply_packed<S, S>(rows, V, width, {s_QT, LINE}, values_TV[j], o_QV, V, true, 1, packed);
    }
    for (int64_t r = 0; r < rows; r++) {
      const S inverse = l[r] == 0 ? S(0) : 1 / l[r];  // a query that sees nothing gives zero
      for (int64_t d = 0; d < V; d++) out[(i + r) * n.H * V + d] = T(o_QV[r * V + d] * inverse);
      lse[i + r] = m[r] + std::log(l[r]);
      top = l[r] != l[r] ? l[r] : std::max(top, m[r]);  // a NaN anywhere shows in the maximum
    }
  }
  return top;
}

/// From g = d out: dq and dkv like q and kv, and this head's share of d k_pe, still rotated: [T, R].
template <class T, class S>
void backward_head(const Call<T, S>& c, int64_t b, int64_t h, const T* out, const S* lse, const T* g, T* dq, T* dkv,
                   S* dk_pe) {
  const Sizes& n = c.n;
  const int64_t K = n.K(), V = n.V, HV = n.H * V, blocks = blocks_of(n.T, KEYS);
  const int64_t keys_size = packed_size<S>(K, KEYS), rows_size = packed_size<S>(KEYS, K);
  const int64_t values_size = packed_size<S>(V, KEYS);
  const int64_t q_size = packed_size<S>(QUERIES, K), g_size = packed_size<S>(QUERIES, V);
  static thread_local Scratch<S> scratch;
  Cut<S> cut{scratch.get(blocks * (keys_size + rows_size + values_size) + n.T * (2 * K + V) +
                         QUERIES * (2 * K + 2 * LINE) + q_size + g_size + 1024)};
  const Blocks<S> keys_KT{cut(blocks * keys_size), keys_size}, keys_TK{cut(blocks * rows_size), rows_size};
  const Blocks<S> values_VT{cut(blocks * values_size), values_size};
  S *k_TK = cut(n.T * K), *dk_TK = cut(n.T * K), *dv_TV = cut(n.T * V);
  S *q_QK = cut(QUERIES * K), *dq_QK = cut(QUERIES * K), *p_QT = cut(QUERIES * LINE), *ds_QT = cut(QUERIES * LINE);
  S *q_packed = cut(q_size), *g_packed = cut(g_size);

  c.read_keys(b, h, k_TK);
  for (int64_t j = 0; j < n.T; j += KEYS) {
    const int64_t width = std::min(KEYS, n.T - j);
    pack<S, S>(K, width, {k_TK + j * K, 1, K}, keys_KT[j]);
    pack<S, S>(width, K, {k_TK + j * K, K}, keys_TK[j]);
    pack<S, T>(V, width, c.values(b, j, h).t(), values_VT[j]);
  }
  std::fill_n(dk_TK, n.T * K, S(0));
  std::fill_n(dv_TV, n.T * V, S(0));
  for (int64_t i = 0; i < n.T; i += QUERIES) {
    const int64_t rows = std::min(QUERIES, n.T - i), end = i + rows, first = c.first_key(b, i, end);
    const Mat<const T> g_QV{g + i * HV, HV};
    S dot[QUERIES];  // g_i · out_i
    for (int64_t r = 0; r < rows; r++) {
      Vec<S> sum = {};
      for (int64_t d = 0; d < V; d += LANES<S>)
        sum += load<S>(g_QV.at + r * HV + d, V - d) * load<S>(out + (i + r) * HV + d, V - d);
      dot[r] = lane_sum<S>(sum);
    }
    c.read_queries(b, h, i, end, q_QK);
    pack<S, S>(rows, K, {q_QK, K}, q_packed);
    pack<S, T>(rows, V, g_QV, g_packed);
    std::fill_n(dq_QK, rows * K, S(0));
    for (int64_t j = first / KEYS * KEYS; j < end; j += KEYS) {
      const int64_t width = std::min(KEYS, end - j), packed = std::min(KEYS, n.T - j);
      const int64_t skip = std::max<int64_t>(0, first - j);
      multiply_packed<S, S>(rows, width, K, {q_QK, K}, keys_KT[j], p_QT, LINE, false, S(n.scale));
      multiply_packed<S, T>(rows, width, V, g_QV, values_VT[j], ds_QT, LINE);
      for (int64_t r = 0; r < rows; r++) {
        S *p = p_QT + r * LINE, *ds = ds_QT + r * LINE;
        const int64_t to = std::clamp<int64_t>(i + r + 1 - j, 0, width);
        const int64_t from = std::clamp<int64_t>(c.first_key(b, i + r) - j, 0, to);
        for (int64_t t = from; t < to; t += LANES<S>) {
          const Vec<S> e = keep<S>(exp(load<S>(p + t) - lse[i + r]), to - t, S(0));
          store<S>(p + t, e);
          store<S>(ds + t, keep<S>(e * (load<S>(ds + t) - dot[r]) * S(n.scale), to - t, S(0)));
        }
        for (S* x : {p, ds}) {
          std::fill(x, x + from, S(0));
          std::fill(x + to, x + std::max(to, width), S(0));
        }
      }
      const Mat<const S> p_TQ{p_QT + skip, 1, LINE}, ds_TQ{ds_QT + skip, 1, LINE};
      multiply_packed<S, S>(width - skip, V, rows, p_TQ, g_packed, dv_TV + (j + skip) * V, V, true);
      multiply_packed<S, S>(width - skip, K, rows, ds_TQ, q_packed, dk_TK + (j + skip) * K, K, true);
      multiply_packed<S, S>(rows, K, width, {ds_QT, LINE}, keys_TK[j], dq_QK, K, true, 1, packed);
    }
    for (int64_t r = 0; r < rows; r++) {
      T* x = dq + (c.query(b, i + r, h) - c.q);
      const int64_t angle = (i + r) * n.rope / 2;
      for (int64_t d = 0; d < n.nope; d++) x[d] = T(dq_QK[r * K + d]);
      rotate(n.rope, dq_QK + r * K + n.nope, c.cos + angle, c.sin + angle, true, x + n.nope);
    }
  }
  for (int64_t t = 0; t < n.T; t++) {
    T* x = dkv + ((b * n.T + t) * n.H + h) * n.X();
    for (int64_t d = 0; d < n.nope; d++) x[d] = T(dk_TK[t * K + d]);
    for (int64_t d = 0; d < V; d++) x[n.nope + d] = T(dv_TV[t * V + d]);
    std::copy_n(dk_TK + t * K + n.nope, n.rope, dk_pe + t * n.rope);
  }
}

Sizes check(const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
            const std::optional<Tensor>& doc_start, int64_t nope, double scale) {
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
  return n;
}

/// k_pe turned by its position's angle (or back), in the type of sums: [B, T, R].
template <class In, class Out, class S>
void rotate_keys(const Sizes& n, const In* x, const S* cos, const S* sin, bool transposed, Out* y) {
  for (int64_t i = 0; i < n.B * n.T; i++) {
    const int64_t angle = i % n.T * n.rope / 2;
    rotate(n.rope, x + i * n.rope, cos + angle, sin + angle, transposed, y + i * n.rope);
  }
}

/// Contiguous inputs; k_pe rotated, angles in the type of sums.
struct Inputs {
  Sizes n;
  Tensor q, kv, k_pe, cos, sin, doc_start;

  template <class T>
  Call<T, Sum<T>> call() const {
    using S = Sum<T>;
    return {n, q.const_data_ptr<T>(), kv.const_data_ptr<T>(), k_pe.const_data_ptr<S>(), cos.const_data_ptr<S>(),
            sin.const_data_ptr<S>(), doc_start.defined() ? doc_start.const_data_ptr<int32_t>() : nullptr};
  }
};

Inputs read(const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
            const std::optional<Tensor>& doc_start, int64_t nope, double scale) {
  const Sizes n = check(q, kv, k_pe, cos, sin, doc_start, nope, scale);
  const auto type = sum_type(q);
  Inputs in{n, q.contiguous(), kv.contiguous(), at::empty({n.B, n.T, n.rope}, q.options().dtype(type)),
            cos.to(type).contiguous(), sin.to(type).contiguous(), doc_start ? doc_start->contiguous() : Tensor()};
  const Tensor key = k_pe.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, q.scalar_type(), "massif::mla_attention", [&] {
    using S = Sum<scalar_t>;
    rotate_keys(n, key.const_data_ptr<scalar_t>(), in.cos.const_data_ptr<S>(), in.sin.const_data_ptr<S>(), false,
                in.k_pe.mutable_data_ptr<S>());
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
    rotate_keys(n, sum.const_data_ptr<S>(), call.cos, call.sin, true, dk_pe.mutable_data_ptr<scalar_t>());
  });
  return {dq, dkv, dk_pe};
}

struct MlaAttention : torch::autograd::Function<MlaAttention> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& kv, const Tensor& k_pe,
                               const Tensor& cos, const Tensor& sin, const std::optional<Tensor>& doc_start,
                               int64_t nope, double scale) {
    const Inputs in = read(q, kv, k_pe, cos, sin, doc_start, nope, scale);
    auto [out, lse, max_logit] = massif::forward(in);
    ctx->save_for_backward({in.q, in.kv, in.k_pe, in.cos, in.sin, in.doc_start, out, lse});
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
    auto [dq, dkv, dk_pe] = massif::backward({n, q, kv, k_pe, s[3], s[4], s[5]}, s[6], s[7], grads[0].contiguous());
    return {dq, dkv, dk_pe, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "mla_attention(Tensor q_BTHK, Tensor kv_BTHX, Tensor k_pe_BTR, Tensor cos_TR2, Tensor sin_TR2, "
      "Tensor? doc_start_BT, int nope, float scale) -> (Tensor out_BTHV, Tensor max_logit_H)");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("mla_attention", [](const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
                             const std::optional<Tensor>& doc_start, int64_t nope, double scale) {
    auto [out, lse, max_logit] = forward(read(q, kv, k_pe, cos, sin, doc_start, nope, scale));
    return std::make_tuple(out, max_logit);
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("mla_attention", [](const Tensor& q, const Tensor& kv, const Tensor& k_pe, const Tensor& cos, const Tensor& sin,
                             const std::optional<Tensor>& doc_start, int64_t nope, double scale) {
    const auto y = MlaAttention::apply(q, kv, k_pe, cos, sin, doc_start, nope, scale);
    return std::make_tuple(y[0], y[1]);
  });
}

}  // namespace massif
