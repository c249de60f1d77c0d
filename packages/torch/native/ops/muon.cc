// Muon as Moonlight and Kimi K2 define it (arXiv 2502.16982 §2; 2507.20534 Algorithm 1), momentum and update inside.
// For every matrix W [A, B] with gradient G:
//
//   M ← μM + G        X = G + μM (Nesterov) or M        X ← X / (‖X‖_F + 1e-7)
//   steps times:  P = a·I + b·XXᵀ + c·(XXᵀ)²,  X ← PX      (a, b, c) = (3.4445, −4.7750, 2.0315)
//   and with XᵀX and XP where A > B, so that P is on the short side
//   W ← W(1 − ηλ) − η·0.2·√max(A, B)·X
//
// XXᵀ and its square are symmetric: only the blocks on and above the diagonal are computed. Matrices that are large
// against the whole use all threads one after another; the others are dealt out, the costliest first to the least
// busy thread. The result does not depend on the number of threads. In bfloat16 only what the products read is rounded:
// X, XXᵀ and P are sums. m ≤ k are X's sides, N matrices.
#include "op.h"
#include "parallel_gemm.h"

#include <numeric>

namespace massif {
namespace {

constexpr double A0 = 3.4445, B0 = -4.7750, C0 = 2.0315;

struct Rule {
  double lr, mu, weight_decay;
  bool nesterov;
  int64_t steps;
};

/// One matrix of a stack.
template <class T>
struct Matrix {
  T *w, *momentum;
  const T* grad;
  int64_t A, B;
  double cost() const {
    const double m = std::min(A, B), k = std::max(A, B);
    return m * m * (2 * k + m);
  }
};

/// C[m,m] = A·B where the product is symmetric: blocks above the diagonal by product, those below by reflection.
template <class Operand, class T>
void multiply_symmetric(int64_t m, int64_t K, Mat<const T> A, Mat<const T> B, T* C) {
  static thread_local Scratch<Operand> scratch;
  constexpr int64_t COLS = Tile<Operand>::COLS, ROWS = 48;
  Operand* panels = scratch.get(packed_size<Operand>(K, m));
  pack<Operand, T>(K, m, B, panels);
  at::parallel_for(0, blocks_of(m, ROWS), 4, [&](int64_t first, int64_t last) {
    for (int64_t i = first * ROWS; i < std::min(m, last * ROWS); i += ROWS) {
      const int64_t j = i / COLS * COLS;
      multiply_packed<Operand, T>(std::min(ROWS, m - i), m - j, K, A.from(i, 0), panels + packed_size<Operand>(K, j), C + i * m + j, m);
    }
  });
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < i / ROWS * ROWS / COLS * COLS; j++) C[i * m + j] = C[j * m + i];
}

/// X [A, B] → its polar factor, nearly; `next` [A, B], gram and poly [m, m] are scratch. Returns where X is now.
template <class Operand, class T>
T* newton_schulz(int64_t A, int64_t B, int64_t steps, T* x, T* next, T* gram, T* poly) {
  const bool tall = A > B;
  const int64_t m = std::min(A, B), k = std::max(A, B);
  for (int64_t step = 0; step < steps; step++) {
    const Mat<const T> X{x, B}, wide = tall ? X.t() : X, G{gram, m}, P{poly, m};
    multiply_symmetric<Operand, T>(m, k, wide, wide.t(), gram);
    multiply_symmetric<Operand, T>(m, m, G, G, poly);
    for (int64_t i = 0; i < m * m; i++) poly[i] = T(B0) * gram[i] + T(C0) * poly[i];
    for (int64_t i = 0; i < m; i++) poly[i * m + i] += T(A0);
    parallel_multiply<Operand, T, T>(A, B, m, tall ? X : P, tall ? P : X, next, B);
    std::swap(x, next);
  }
  return x;
}

/// Momentum in place; its direction, divided by its norm, into x [A, B].
template <class T>
void read_direction(const Matrix<T>& p, const Rule& rule, T* x) {
  const int64_t size = p.A * p.B;
  const T mu = T(rule.mu);
  Vec<T> squares = {};
  for (int64_t i = 0; i < size; i += LANES<T>) {
    const Vec<T> g = load<T>(p.grad + i, size - i), v = mu * load<T>(p.momentum + i, size - i) + g;
    const Vec<T> d = rule.nesterov ? g + mu * v : v;
    store<T>(p.momentum + i, v, size - i);
    store<T>(x + i, d, size - i);
    squares += d * d;
  }
  const T inverse = 1 / (std::sqrt(lane_sum<T>(squares)) + T(1e-7));
  for (int64_t i = 0; i < size; i++) x[i] *= inverse;
}

template <class T>
void apply(const Matrix<T>& p, const Rule& rule, const T* x) {
  const T keep = T(1 - rule.lr * rule.weight_decay), scale = T(rule.lr * 0.2 * std::sqrt(double(std::max(p.A, p.B))));
  for (int64_t i = 0; i < p.A * p.B; i++) p.w[i] = p.w[i] * keep - scale * x[i];
}

/// One matrix; its products read operands as Operand (bfloat16: rounded while they are packed).
template <class Operand, class T>
void update(const Matrix<T>& p, const Rule& rule) {
  static thread_local Scratch<T> scratch;
  const int64_t m = std::min(p.A, p.B), size = p.A * p.B;
  T* x = scratch.get(2 * size + 2 * m * m);
  read_direction(p, rule, x);
  apply(p, rule, newton_schulz<Operand>(p.A, p.B, rule.steps, x, x + size, x + 2 * size, x + 2 * size + m * m));
}

template <class Operand, class T>
void update_all(std::vector<Matrix<T>> matrices, const Rule& rule) {
  const auto total = [](double sum, const Matrix<T>& p) { return sum + p.cost(); };
  const int64_t threads = at::get_num_threads();
  const double share = std::accumulate(matrices.begin(), matrices.end(), 0.0, total) / double(threads);
  std::stable_sort(matrices.begin(), matrices.end(),
                   [](const Matrix<T>& a, const Matrix<T>& b) { return a.cost() > b.cost(); });
  std::vector<std::vector<Matrix<T>>> dealt(threads);
  std::vector<double> busy(threads);
  for (const Matrix<T>& p : matrices) {
    if (threads > 1 && p.cost() > share / 2) {
      update<Operand>(p, rule);
      continue;
    }
    const auto least = std::min_element(busy.begin(), busy.end()) - busy.begin();
    dealt[least].push_back(p);
    busy[least] += p.cost();
  }
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++)
      for (const Matrix<T>& p : dealt[i]) update<Operand>(p, rule);
  });
}

void check(const Tensor& w, const Tensor& grad, const Tensor& momentum) {
  constexpr auto op = "massif::muon_update_";
  TORCH_CHECK(w.dim() >= 2, op, ": param is ", w.sizes(), ", expected [..., A, B]");
  for (const auto& [name, t] : {std::pair("grad", grad), std::pair("momentum", momentum)}) {
    check_shape(op, name, t, w.sizes());
    check_same_type(op, name, t, w);
  }
  TORCH_CHECK(w.scalar_type() == at::kFloat || w.scalar_type() == at::kDouble, op, ": param is ", w.scalar_type(),
              ", expected float32 or float64 (masters)");
}

void muon_update_list(at::TensorList params, at::TensorList grads, at::TensorList momenta, double lr, double mu,
                      double weight_decay, bool nesterov, int64_t steps, bool bf16) {
  TORCH_CHECK(params.size() == grads.size() && params.size() == momenta.size(), "massif::muon_update_: ", params.size(),
              " params, ", grads.size(), " grads, ", momenta.size(), " momenta, expected as many of each");
  if (params.empty()) return;
  at::NoGradGuard no_grad;
  const Rule rule{lr, mu, weight_decay, nesterov, steps};
  std::vector<Tensor> w, g, v;
  for (size_t i = 0; i < params.size(); i++) {
    check(params[i], grads[i], momenta[i]);
    check_same_type("massif::muon_update_", "param", params[i], params[0]);
    w.push_back(params[i].contiguous());
    g.push_back(grads[i].contiguous());
    v.push_back(momenta[i].contiguous());
  }
  AT_DISPATCH_FLOATING_TYPES(params[0].scalar_type(), "massif::muon_update_", [&] {
    std::vector<Matrix<scalar_t>> matrices;
    for (size_t i = 0; i < w.size(); i++) {
      const int64_t A = w[i].size(-2), B = w[i].size(-1);
      for (int64_t at = 0; at < w[i].numel(); at += A * B)
        matrices.push_back({w[i].mutable_data_ptr<scalar_t>() + at, v[i].mutable_data_ptr<scalar_t>() + at,
                            g[i].const_data_ptr<scalar_t>() + at, A, B});
    }
    if (bf16)
      update_all<Panel<c10::BFloat16>>(std::move(matrices), rule);
    else
      update_all<scalar_t>(std::move(matrices), rule);
  });
  for (size_t i = 0; i < w.size(); i++) {
    if (!w[i].is_same(params[i])) params[i].copy_(w[i]);
    if (!v[i].is_same(momenta[i])) momenta[i].copy_(v[i]);
  }
}

void muon_update(const Tensor& param, const Tensor& grad, const Tensor& momentum, double lr, double mu,
                 double weight_decay, bool nesterov, int64_t steps, bool bf16) {
  muon_update_list(param, grad, momentum, lr, mu, weight_decay, nesterov, steps, bf16);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "muon_update_(Tensor(a!) param_NAB, Tensor grad_NAB, Tensor(b!) momentum_NAB, float lr, float mu, "
      "float weight_decay, bool nesterov, int steps, bool bf16) -> ()");
  m.def(
      "muon_update_.list(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momenta, float lr, float mu, "
      "float weight_decay, bool nesterov, int steps, bool bf16) -> ()");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) {
  m.impl("muon_update_", muon_update);
  m.impl("muon_update_.list", muon_update_list);
}

}  // namespace massif
