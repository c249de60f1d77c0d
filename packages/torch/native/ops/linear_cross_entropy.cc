// Output projection and cross-entropy in one, without the [N, V] logits ever being held:
//
//   z_nv = x_n·w_v      lse_n = log Σ_v e^z_nv      nll_n = lse_n − z_n,target
//   δ_nv = g_n (e^(z_nv − lse_n) − [v = target_n])      dx_n = Σ_v δ_nv w_v      dw_v = Σ_n δ_nv x_n
//
// Tiles of ROWS × WORDS stay in the second cache. Beside lse, e^(z − the row's maximum in a tile) is kept as the backward's
// products read it, where that takes no more than KEPT bytes; else z is computed again. The backward goes by CHUNK rows and
// as many words as keep the threads busy: first each thread makes δ of its words, and their rows of dw; then of its rows
// dx. Logits, lse and dw are sums, and w may be float beside a bfloat16 x. Nothing depends on the number of threads.
// V vocabulary, D width.
#include "op.h"
#include "parallel_gemm.h"

#include <limits>
#include <tuple>
#include <vector>

namespace massif {
namespace {

constexpr int64_t ROWS = 96, WORDS = 256, CHUNK = 1024;
constexpr int64_t SPAN = 4;  // tiles of the vocabulary at once, or a multiple: products sum as many words before they add
constexpr int64_t KEPT = 1 << 27;        // 128 MiB
constexpr int64_t LINE = WORDS + 16;  // row stride of a tile, off the power of two

/// log Σ e^z of one row, and its maximum m; `each(v, e)` sees e^(z − m) of every vector.
template <class S, class F>
std::pair<S, S> log_sum_exp(int64_t n, const S* z, const F& each) {
  constexpr int64_t L = LANES<S>;
  const S lowest = -std::numeric_limits<S>::infinity();
  Vec<S> top = splat(lowest), sum = {};
  for (int64_t v = 0; v < n; v += L) top = maximum<S>(top, keep<S>(load<S>(z + v, n - v), n - v, lowest));
  const S m = lane_max<S>(top);
  for (int64_t v = 0; v < n; v += L) {
    const Vec<S> e = keep<S>(exp(load<S>(z + v, n - v) - m), n - v, S(0));
    sum += e;
    each(v, e);
  }
  return {m + std::log(lane_sum<S>(sum)), m};
}

/// Of each row log Σ e^z over one tile of the vocabulary, and its maximum there; picked_N: the target's logit. What is kept
/// has `line` elements from row to row; null: nothing is.
template <class T, class W, class S, class P = Panel<T>>
void forward_tile(int64_t N, int64_t D, int64_t first, int64_t words, const T* x, const W* w, const int64_t* target,
                  S* part, S* top, S* picked, P* kept, int64_t line) {
  static thread_local Scratch<S> sums;
  static thread_local Scratch<P> scratch;
  S* z = sums.get(ROWS * LINE);
  P* w_DV = scratch.get(packed_size<P>(D, WORDS));
  pack<P, W>(D, words, {w + first * D, 1, D}, w_DV);
  for (int64_t n = 0; n < N; n += ROWS) {
    const int64_t rows = std::min(ROWS, N - n);
    multiply_packed<P, T>(rows, words, D, {x + n * D, D}, w_DV, z, LINE);
    for (int64_t r = 0; r < rows; r++) {
      std::tie(part[n + r], top[n + r]) =
          kept ? log_sum_exp(words, z + r * LINE,
                             [row = kept + (n + r) * line, words](int64_t v, Vec<S> e) { store<S>(row + v, e, words - v); })
               : log_sum_exp(words, z + r * LINE, [](int64_t, Vec<S>) {});
      const int64_t v = target[n + r] - first;
      if (v >= 0 && v < words) picked[n + r] = z[r * LINE + v];
    }
  }
}

/// δ of one row of z: e^(z − lse)·g, and (e^(z − lse) − 1)·g at the target if that is one of these words.
template <class S, class P>
void delta_row(int64_t words, const S* z, S lse, S g, int64_t target, P* delta) {
  if (g == 0) return void(std::fill_n(delta, words, P(0)));  // ignored: nothing, even where its logits are not finite
  const bool here = target >= 0 && target < words;
  const S at_target = here ? (std::exp(z[target] - lse) - 1) * g : 0;
  for (int64_t v = 0; v < words; v += LANES<S>) store<S>(delta + v, exp(load<S>(z + v) - lse) * g);
  if (here) delta[target] = P(at_target);
}

/// The same from what was kept of it and the tile's maximum; p is e^(z − lse) of the target.
template <class S, class P>
void delta_row(int64_t words, const P* kept, S top, S lse, S g, int64_t target, S p, P* delta) {
  if (g == 0) return void(std::fill_n(delta, words, P(0)));
  const S scale = std::exp(top - lse) * g;
  for (int64_t v = 0; v < words; v += LANES<S>) store<S>(delta + v, load<S>(kept + v, words - v) * scale);
  if (target >= 0 && target < words) delta[target] = P((p - 1) * g);
}

/// What a forward pass leaves: nll and lse [N], and [N, V] of e^(z − top), top [W, N] being each tile's maximum; or neither.
struct Found {
  Tensor nll, lse, kept, top;
};

/// Pointers to it, from row n and word v on.
template <class S, class P>
struct Rows {
  const S *nll, *lse, *g, *top;
  const int64_t* target;
  const P* kept;  // null: nothing
  int64_t line;
};

/// δ of N rows and one tile of the vocabulary, `line` from row to row, and what they give this tile's rows of dw.
/// `x_packed` is x as a right operand.
template <class T, class W, class S, class P = Panel<T>>
void backward_tile(int64_t N, int64_t D, int64_t first, int64_t words, const T* x, const P* x_packed, const W* w,
                   const Rows<S, P>& at, P* delta, int64_t line, S* dw) {
  static thread_local Scratch<S> sums;
  static thread_local Scratch<P> scratch;
  if (at.kept) {
    for (int64_t n = 0; n < N; n++)
      delta_row(words, at.kept + n * at.line, at.top[n], at.lse[n], at.g[n], at.target[n] - first, std::exp(-at.nll[n]),
                delta + n * line);
  } else {
    S* z = sums.get(ROWS * LINE);
    P* w_DV = scratch.get(packed_size<P>(D, WORDS));
    pack<P, W>(D, words, {w + first * D, 1, D}, w_DV);
    for (int64_t n = 0; n < N; n += ROWS) {
      const int64_t rows = std::min(ROWS, N - n);
      multiply_packed<P, T>(rows, words, D, {x + n * D, D}, w_DV, z, LINE);
      for (int64_t r = 0; r < rows; r++)
        delta_row(words, z + r * LINE, at.lse[n + r], at.g[n + r], at.target[n + r] - first, delta + (n + r) * line);
    }
  }
  multiply_packed<P, P>(words, D, N, {delta, 1, line}, x_packed, dw + first * D, D, true);
}

/// In the type of sums. `keep`: for a backward pass.
Found forward(const Tensor& x, const Tensor& w, const Tensor& target, int64_t ignore, bool keep) {
  const int64_t N = x.size(0), D = x.size(1), V = w.size(0), tiles = blocks_of(V, WORDS), line = V + 32;
  const auto sums = x.options().dtype(sum_type(x));
  Tensor part = at::empty({tiles, N}, sums), top = at::empty({tiles, N}, sums);
  Found found{at::zeros({N}, sums), at::zeros({N}, sums), Tensor(), Tensor()};
  const int64_t* words = target.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::linear_cross_entropy", [&] {
    using S = Sum<scalar_t>;
    using P = Panel<scalar_t>;
    if (keep && N * line * int64_t(sizeof(P)) <= KEPT) {
      found.kept = at::empty({N, line}, x.options().dtype(c10::CppTypeToScalarType<P>::value));
      found.top = top;
    }
    P* kept = found.kept.defined() ? found.kept.mutable_data_ptr<P>() : nullptr;
    S *nll_N = found.nll.mutable_data_ptr<S>(), *lse_N = found.lse.mutable_data_ptr<S>();
    S *part_WN = part.mutable_data_ptr<S>(), *top_WN = top.mutable_data_ptr<S>();
    with_data<scalar_t>(w, [&](const auto* w_VD) {
      parallel_blocks(V, WORDS, [&](int64_t tile, int64_t from, int64_t to) {
        forward_tile(N, D, from, to - from, x.const_data_ptr<scalar_t>(), w_VD, words, part_WN + tile * N,
                     top_WN + tile * N, nll_N, kept ? kept + from : nullptr, line);
      });
    });
    std::vector<S> row(tiles);
    for (int64_t n = 0; n < N; n++) {
      for (int64_t t = 0; t < tiles; t++) row[t] = part_WN[t * N + n];
      lse_N[n] = log_sum_exp<S>(tiles, row.data(), [](int64_t, Vec<S>) {}).first;
      nll_N[n] = words[n] == ignore ? 0 : lse_N[n] - nll_N[n];
    }
  });
  return found;
}

/// dx and dw from g [N], zero where the target is ignored.
std::pair<Tensor, Tensor> backward(const Tensor& x, const Tensor& w, const Tensor& target, const Found& found,
                                   const Tensor& g) {
  const int64_t N = x.size(0), D = x.size(1), V = w.size(0), chunk = std::min(N, CHUNK);
  const int64_t width = std::min(blocks_of(V, WORDS), blocks_of(at::get_num_threads(), SPAN) * SPAN) * WORDS;
  const int64_t line = width + 32;  // off the power of two
  const auto sums = x.options().dtype(sum_type(x));
  Tensor dx = at::zeros({N, D}, sums), dw = at::zeros({V, D}, sums);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::linear_cross_entropy", [&] {
    using S = Sum<scalar_t>;
    using P = Panel<scalar_t>;
    const auto operands = x.options().dtype(c10::CppTypeToScalarType<P>::value);
    Tensor delta = at::empty({chunk, line}, operands), packed = at::empty({packed_size<P>(chunk, D)}, operands);
    P *delta_NV = delta.mutable_data_ptr<P>(), *x_packed = packed.mutable_data_ptr<P>();
    const P* kept = found.kept.defined() ? found.kept.const_data_ptr<P>() : nullptr;
    const S* top_WN = kept ? found.top.const_data_ptr<S>() : nullptr;
    S *dx_ND = dx.mutable_data_ptr<S>(), *dw_VD = dw.mutable_data_ptr<S>();
    for (int64_t n = 0; n < N; n += CHUNK) {
      const int64_t rows = std::min(CHUNK, N - n);
      const scalar_t* x_ND = x.const_data_ptr<scalar_t>() + n * D;
      parallel_blocks(D, Tile<P>::COLS, [&](int64_t, int64_t from, int64_t to) {
        pack<P, scalar_t>(rows, to - from, {x_ND + from, D}, x_packed + packed_size<P>(rows, from));
      });
      with_data<scalar_t>(w, [&]<class W>(const W* w_VD) {
        for (int64_t v = 0; v < V; v += width) {
          const int64_t words = std::min(width, V - v);
          parallel_blocks(words, WORDS, [&](int64_t, int64_t from, int64_t to) {
            const int64_t first = v + from;
            const Rows<S, P> at{found.nll.const_data_ptr<S>() + n, found.lse.const_data_ptr<S>() + n, g.const_data_ptr<S>() + n,
                                kept ? top_WN + first / WORDS * N + n : nullptr, target.const_data_ptr<int64_t>() + n,
                                kept ? kept + n * (V + 32) + first : nullptr, V + 32};
            backward_tile(rows, D, first, to - from, x_ND, x_packed, w_VD, at, delta_NV + from, line, dw_VD);
          });
          parallel_multiply<P, P, W>(rows, D, words, {delta_NV, line}, {w_VD + v * D, D}, dx_ND + n * D, D, true);
        }
      });
    }
  });
  return {dx.to(x.scalar_type()), dw.to(w.scalar_type())};
}

void check(const Tensor& x, const Tensor& w, const Tensor& target, int64_t ignore) {
  constexpr auto op = "massif::linear_cross_entropy";
  TORCH_CHECK(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(1), op, ": x is ", x.sizes(), " and weight ", w.sizes(),
              ", expected [N, D] and [V, D]");
  check_same_or_wide(op, "weight", w.scalar_type(), x);
  check_shape(op, "target", target, {x.size(0)});
  TORCH_CHECK(target.scalar_type() == at::kLong, op, ": target is ", target.scalar_type(), ", expected int64");
  const int64_t* t = target.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < target.numel(); n++)
    TORCH_CHECK_INDEX(t[n] == ignore || (t[n] >= 0 && t[n] < w.size(0)), op, ": target ", n, " is ", t[n],
                      ", expected 0 … ", w.size(0) - 1, " or ", ignore, " to ignore it");
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x_, const Tensor& w_, const Tensor& target_, int64_t ignore) {
    const Tensor x = x_.contiguous(), w = w_.contiguous(), target = target_.contiguous();
    check(x, w, target, ignore);
    const Found found = massif::forward(x, w, target, ignore, true);
    ctx->save_for_backward({x, w, target, found.nll, found.lse, found.kept, found.top});
    ctx->saved_data["ignore"] = ignore;
    return found.nll;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::linear_cross_entropy");
    const auto s = ctx->get_saved_variables();
    const Tensor g = grads[0].masked_fill(s[2].eq(ctx->saved_data["ignore"].toInt()), 0).contiguous();
    auto [dx, dw] = massif::backward(s[0], s[1], s[2], {s[3], s[4], s[5], s[6]}, g);
    return {dx, dw, Tensor(), Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def("linear_cross_entropy(Tensor x_ND, Tensor weight_VD, Tensor target_N, int ignore_index=-100) -> Tensor nll_N");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("linear_cross_entropy", [](const Tensor& x_, const Tensor& w_, const Tensor& target_, int64_t ignore) {
    const Tensor x = x_.contiguous(), w = w_.contiguous(), target = target_.contiguous();
    check(x, w, target, ignore);
    return forward(x, w, target, ignore, false).nll;
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("linear_cross_entropy", [](const Tensor& x, const Tensor& w, const Tensor& target, int64_t ignore) {
    return LinearCrossEntropy::apply(x, w, target, ignore);
  });
}

}  // namespace massif
