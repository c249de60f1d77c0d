// Output projection and cross-entropy in one, without the [N, V] logits ever being held:
//
//   z_nv = x_n·w_v      lse_n = log Σ_v e^z_nv      nll_n = lse_n − z_n,target
//   δ_nv = g_n (e^(z_nv − lse_n) − [v = target_n])      dx_n = Σ_v δ_nv w_v      dw_v = Σ_n δ_nv x_n
//
// Tiles of ROWS × WORDS stay in the second cache; only lse is kept and the backward computes z again, which costs less
// than writing and reading N·V floats. A thread owns a slice of the vocabulary: it adds to its own rows of dw and to
// its own copy of dx for CHUNK rows; the copies are then summed in order, so the last bits of dx depend on the number
// of threads (never on the run). Logits, lse and dw are sums, and w may be float beside a bfloat16 x. V vocabulary, D
// width.
#include "op.h"

#include <limits>
#include <vector>

namespace massif {
namespace {

constexpr int64_t ROWS = 96, WORDS = 256, CHUNK = 1024;
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

/// dw (this tile's rows) and dx gain what N rows of x and this tile of the vocabulary give.
template <class T, class W, class S>
void backward_tile(int64_t N, int64_t D, int64_t first, int64_t words, const T* x, const W* w, const int64_t* target,
                   const S* lse, const S* g, S* dx, S* dw) {
  using P = Panel<T>;
  static thread_local Scratch<S> sums;
  static thread_local Scratch<P> scratch;
  const int64_t w_size = packed_size<P>(D, WORDS), w_rows_size = packed_size<P>(WORDS, D);
  S* z = sums.get(ROWS * LINE);
  P* w_DV = scratch.get(w_size + w_rows_size + packed_size<P>(ROWS, D) + ROWS * LINE);
  P *w_VD = w_DV + w_size, *x_ND = w_VD + w_rows_size, *delta = x_ND + packed_size<P>(ROWS, D);
  if constexpr (std::is_same_v<P, S>) delta = z;
  pack<P, W>(D, words, {w + first * D, 1, D}, w_DV);
  pack<P, W>(words, D, {w + first * D, D}, w_VD);
  for (int64_t n = 0; n < N; n += ROWS) {
    const int64_t rows = std::min(ROWS, N - n);
    multiply_packed<P, T>(rows, words, D, {x + n * D, D}, w_DV, z, LINE);
    for (int64_t r = 0; r < rows; r++)
      delta_row(words, z + r * LINE, lse[n + r], g[n + r], target[n + r] - first, delta + r * LINE);
    pack<P, T>(rows, D, {x + n * D, D}, x_ND);
    multiply_packed<P, P>(words, D, rows, {delta, 1, LINE}, x_ND, dw, D, true);
    multiply_packed<P, P>(rows, D, words, {delta, LINE}, w_VD, dx + n * D, D, true);
  }
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
  const int64_t N = x.size(0), D = x.size(1), V = w.size(0), tiles = blocks_of(V, WORDS);
  const int64_t slices = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), tiles));
  const auto sums = x.options().dtype(sum_type(x));
  Tensor dx = at::empty({N, D}, sums), dw = at::zeros({V, D}, sums);
  Tensor copies = at::empty({slices, std::min(N, CHUNK), D}, sums);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "massif::linear_cross_entropy", [&] {
    using S = Sum<scalar_t>;
    for (int64_t n = 0; n < N; n += CHUNK) {
      const int64_t rows = std::min(CHUNK, N - n);
      copies.zero_();
      with_data<scalar_t>(w, [&](const auto* w_VD) {
        parallel_blocks(slices, 1, [&](int64_t slice, int64_t, int64_t) {
          for (int64_t tile = slice * tiles / slices; tile < (slice + 1) * tiles / slices; tile++) {
            const int64_t from = tile * WORDS;
            backward_tile(rows, D, from, std::min(WORDS, V - from), x.const_data_ptr<scalar_t>() + n * D, w_VD,
                          target.const_data_ptr<int64_t>() + n, lse.const_data_ptr<S>() + n, g.const_data_ptr<S>() + n,
                          copies[slice].template mutable_data_ptr<S>(), dw.mutable_data_ptr<S>() + from * D);
          }
        });
      });
      Tensor out = dx.narrow(0, n, rows);
      at::sum_out(out, copies.narrow(1, 0, rows), 0);
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
