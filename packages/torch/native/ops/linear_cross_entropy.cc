// Output projection and cross-entropy in one, without the [N, V] logits ever being held:
//
//   z_nv = x_n·w_v      lse_n = log Σ_v e^z_nv      nll_n = lse_n − z_n,target
//   δ_nv = g_n (e^(z_nv − lse_n) − [v = target_n])      dx_n = Σ_v δ_nv w_v      dw_v = Σ_n δ_nv x_n
//
// Tiles of ROWS × WORDS stay in the second cache; only lse is kept and the backward computes z again, which costs less
// than writing and reading N·V floats. It goes by CHUNK rows and as many words as keep the threads busy: first each
// thread makes δ of its words, and their rows of dw; then of its rows dx. Logits, lse and dw are sums, and w may be float
// beside a bfloat16 x. Nothing depends on the number of threads. V vocabulary, D width.
#include "op.h"
#include "parallel_gemm.h"

#include <limits>
#include <vector>

namespace massif {
namespace {

constexpr int64_t ROWS = 96, WORDS = 256, CHUNK = 1024;
constexpr int64_t SPAN = 4;  // tiles of the vocabulary at once, or a multiple: products sum as many words before they add
constexpr int64_t LINE = WORDS + 16;  // row stride of a tile, off the power of two

/// log Σ e^z of one row.
template <class S>
S log_sum_exp(int64_t n, const S* z) {
  constexpr int64_t L = LANES<S>;
  const S lowest = -std::numeric_limits<S>::infinity();
  Vec<S> top = splat(lowest), sum = {};
  for (int64_t v = 0; v < n; v += L) top = maximum<S>(top, keep<S>(load<S>(z + v, n - v), n - v, lowest));
  const S m = lane_max<S>(top);
  for (int64_t v = 0; v < n; v += L) sum += keep<S>(exp(load<S>(z + v, n - v) - m), n - v, S(0));
  return m + std::log(lane_sum<S>(sum));
}

/// part_WN: log Σ e^z over each of the W tiles of the vocabulary; picked_N: the target's logit.
template <class T, class W, class S>
void forward_tile(int64_t N, int64_t D, int64_t first, int64_t words, const T* x, const W* w, const int64_t* target,
                  S* part, S* picked) {
  using P = Panel<T>;
  static thread_local Scratch<S> sums;
  static thread_local Scratch<P> scratch;
  S* z = sums.get(ROWS * LINE);
  P* w_DV = scratch.get(packed_size<P>(D, WORDS));
  pack<P, W>(D, words, {w + first * D, 1, D}, w_DV);
  for (int64_t n = 0; n < N; n += ROWS) {
    const int64_t rows = std::min(ROWS, N - n);
    multiply_packed<P, T>(rows, words, D, {x + n * D, D}, w_DV, z, LINE);
    for (int64_t r = 0; r < rows; r++) {
      part[n + r] = log_sum_exp(words, z + r * LINE);
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

/// δ of N rows and one tile of the vocabulary, `line` from row to row, and what they give this tile's rows of dw.
/// `x_packed` is x as a right operand.
template <class T, class W, class S, class P = Panel<T>>
void backward_tile(int64_t N, int64_t D, int64_t first, int64_t words, const T* x, const P* x_packed, const W* w,
                   const int64_t* target, const S* lse, const S* g, P* delta, int64_t line, S* dw) {
  static thread_local Scratch<S> sums;
  static thread_local Scratch<P> scratch;
  P* w_DV = scratch.get(packed_size<P>(D, WORDS));
  pack<P, W>(D, words, {w + first * D, 1, D}, w_DV);
  for (int64_t n = 0; n < N; n += ROWS) {
    const int64_t rows = std::min(ROWS, N - n);
    S* z = sums.get(ROWS * LINE);
    multiply_packed<P, T>(rows, words, D, {x + n * D, D}, w_DV, z, LINE);
    for (int64_t r = 0; r < rows; r++)
      delta_row(words, z + r * LINE, lse[n + r], g[n + r], target[n + r] - first, delta + (n + r) * line);
  }
  multiply_packed<P, P>(words, D, N, {delta, 1, line}, x_packed, dw + first * D, D, true);
}

/// nll [N] and lse [N] in the type of sums.
std::pair<Tensor, Tensor> forward(const Tensor& x, const Tensor& w, const Tensor& target, int64_t ignore) {
  const int64_t N = x.size(0), D = x.size(1), V = w.size(0), tiles = blocks_of(V, WORDS);
  const auto sums = x.options().dtype(sum_type(x));
  Tensor nll = at::zeros({N}, sums), lse = at::zeros({N}, sums), part = at::empty({tiles, N}, sums);
  const int64_t* words = target.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::linear_cross_entropy", [&] {
    using S = Sum<scalar_t>;
    S *nll_N = nll.mutable_data_ptr<S>(), *lse_N = lse.mutable_data_ptr<S>(), *part_WN = part.mutable_data_ptr<S>();
    with_data<scalar_t>(w, [&](const auto* w_VD) {
      parallel_blocks(V, WORDS, [&](int64_t tile, int64_t from, int64_t to) {
        forward_tile(N, D, from, to - from, x.const_data_ptr<scalar_t>(), w_VD, words, part_WN + tile * N, nll_N);
      });
    });
    std::vector<S> row(tiles);
    for (int64_t n = 0; n < N; n++) {
      for (int64_t t = 0; t < tiles; t++) row[t] = part_WN[t * N + n];
      lse_N[n] = log_sum_exp<S>(tiles, row.data());
      nll_N[n] = words[n] == ignore ? 0 : lse_N[n] - nll_N[n];
    }
  });
  return {nll, lse};
}

/// dx and dw from g [N], zero where the target is ignored.
std::pair<Tensor, Tensor> backward(const Tensor& x, const Tensor& w, const Tensor& target, const Tensor& lse,
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
            backward_tile(rows, D, v + from, to - from, x_ND, x_packed, w_VD, target.const_data_ptr<int64_t>() + n,
                          lse.const_data_ptr<S>() + n, g.const_data_ptr<S>() + n, delta_NV + from, line, dw_VD);
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
    auto [nll, lse] = massif::forward(x, w, target, ignore);
    ctx->save_for_backward({x, w, target, lse});
    ctx->saved_data["ignore"] = ignore;
    return nll;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::linear_cross_entropy");
    const auto s = ctx->get_saved_variables();
    const Tensor g = grads[0].masked_fill(s[2].eq(ctx->saved_data["ignore"].toInt()), 0).contiguous();
    auto [dx, dw] = massif::backward(s[0], s[1], s[2], s[3], g);
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
    return forward(x, w, target, ignore).first;
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("linear_cross_entropy", [](const Tensor& x, const Tensor& w, const Tensor& target, int64_t ignore) {
    return LinearCrossEntropy::apply(x, w, target, ignore);
  });
}

}  // namespace massif
