// The router's choice (DeepSeek-V3, arXiv 2412.19437 §2.1.2): of each row the k experts with the largest `choice`, and
//
//   w_j = scale · s_j / (Σ_j s_j + 1e-20)      or scale · s_j, not normalized      s_j = scores[idx_j]
//   ds_j = scale · (g_j − Σ_i g_i s_i / Σ) / Σ      with Σ the denominator          or scale · g_j
//
// The best comes first; of equals the first. N rows, E experts, k a row.
#include "op.h"

namespace massif {
namespace {

constexpr int64_t BLOCK = 256;  // rows a task
constexpr double LEAST = 1e-20;

/// The k largest of a row, the best first; k different ones even where some are no numbers.
template <class T>
void largest(int64_t E, int64_t k, const T* choice, int64_t* idx) {
  for (int64_t e = 0; e < E; e++) {
    int64_t j = std::min(e, k);  // what is worse moves down, the worst of k out
    if (j == k && (k == 0 || !(choice[e] > choice[idx[--j]]))) continue;
    for (; j > 0 && choice[e] > choice[idx[j - 1]]; j--) idx[j] = idx[j - 1];
    idx[j] = e;
  }
}

template <class T>
T total(int64_t k, const T* scores, const int64_t* idx) {
  T sum = T(LEAST);
  for (int64_t j = 0; j < k; j++) sum += scores[idx[j]];
  return sum;
}

std::pair<Tensor, Tensor> forward(const Tensor& scores, const Tensor& choice, int64_t k, bool normalize, double scale) {
  const int64_t N = scores.size(0), E = scores.size(1);
  Tensor idx = at::empty({N, k}, scores.options().dtype(at::kLong)), w = at::empty({N, k}, scores.options());
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "massif::choose_experts", [&] {
    const auto *s_NE = scores.const_data_ptr<scalar_t>(), *c_NE = choice.const_data_ptr<scalar_t>();
    auto* idx_Nk = idx.mutable_data_ptr<int64_t>();
    auto* w_Nk = w.mutable_data_ptr<scalar_t>();
    parallel_blocks(N, BLOCK, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t n = from; n < to; n++) {
        const scalar_t* s = s_NE + n * E;
        int64_t* chosen = idx_Nk + n * k;
        largest(E, k, c_NE + n * E, chosen);
        const scalar_t sum = normalize ? total(k, s, chosen) : 1;
        for (int64_t j = 0; j < k; j++) w_Nk[n * k + j] = s[chosen[j]] / sum * scalar_t(scale);
      }
    });
  });
  return {idx, w};
}

Tensor backward(const Tensor& scores, const Tensor& idx, bool normalize, double scale, const Tensor& g) {
  const int64_t N = scores.size(0), E = scores.size(1), k = idx.size(1);
  Tensor d = at::zeros_like(scores);
  AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "massif::choose_experts", [&] {
    const auto *s_NE = scores.const_data_ptr<scalar_t>(), *g_Nk = g.const_data_ptr<scalar_t>();
    auto* d_NE = d.mutable_data_ptr<scalar_t>();
    parallel_blocks(N, BLOCK, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t n = from; n < to; n++) {
        const scalar_t *s = s_NE + n * E, *gradient = g_Nk + n * k;
        const int64_t* chosen = idx.const_data_ptr<int64_t>() + n * k;
        const scalar_t sum = normalize ? total(k, s, chosen) : 1;
        scalar_t mean = 0;
        if (normalize)
          for (int64_t j = 0; j < k; j++) mean += gradient[j] * s[chosen[j]] / sum;
        for (int64_t j = 0; j < k; j++) d_NE[n * E + chosen[j]] = (gradient[j] - mean) / sum * scalar_t(scale);
      }
    });
  });
  return d;
}

void check(const Tensor& scores, const Tensor& choice, int64_t k) {
  constexpr auto op = "massif::choose_experts";
  TORCH_CHECK(scores.dim() == 2 && k >= 0 && k <= scores.size(1), op, ": scores are ", scores.sizes(), " and k is ", k,
              ", expected [N, E] and 0 … E");
  check_shape(op, "choice", choice, scores.sizes());
  check_same_type(op, "choice", choice, scores);
}

struct ChooseExperts : torch::autograd::Function<ChooseExperts> {
  static variable_list forward(AutogradContext* ctx, const Tensor& scores_, const Tensor& choice, int64_t k, bool normalize,
                               double scale) {
    check(scores_, choice, k);
    const Tensor scores = scores_.contiguous();
    auto [idx, w] = massif::forward(scores, choice.contiguous(), k, normalize, scale);
    ctx->save_for_backward({scores, idx});
    ctx->saved_data["normalize"] = normalize;
    ctx->saved_data["scale"] = scale;
    ctx->mark_non_differentiable({idx});
    return {idx, w};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    check_once("massif::choose_experts");
    const auto s = ctx->get_saved_variables();
    const Tensor d = massif::backward(s[0], s[1], ctx->saved_data["normalize"].toBool(),
                                      ctx->saved_data["scale"].toDouble(), grads[1].contiguous());
    return {d, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def("choose_experts(Tensor scores_NE, Tensor choice_NE, int k, bool normalize, float scale) -> (Tensor idx_Nk, Tensor w_Nk)");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("choose_experts", [](const Tensor& scores, const Tensor& choice, int64_t k, bool normalize, double scale) {
    check(scores, choice, k);
    auto [idx, w] = forward(scores.contiguous(), choice.contiguous(), k, normalize, scale);
    return std::make_tuple(idx, w);
  });
}
TORCH_LIBRARY_IMPL(massif, AutogradCPU, m) {
  m.impl("choose_experts", [](const Tensor& scores, const Tensor& choice, int64_t k, bool normalize, double scale) {
    const auto y = ChooseExperts::apply(scores, choice, k, normalize, scale);
    return std::make_tuple(y[0], y[1]);
  });
}

}  // namespace massif
