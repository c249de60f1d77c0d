// The next tokens from rows of logits, the whole of it in one pass a row:
//
//   log p(i) = l_i − log Σ_j exp l_j                                       what the model says
//   temperature 0: the first of the largest, else i with probability exp(l_i / temperature) / Σ_j, j not in `never` and
//   allowed by the pick's mask, by inverting the sum: the first i at which it passes uniform · whole sum
//
// Rows may come more than once. A row depends on itself alone. No token: −1, where logits are no numbers or none may come.
// P picks, C tokens, M masks of W words: bit i & 31 of word i >> 5 is token i's; tokens beyond a mask may not come.
#include "op.h"

#include <limits>

namespace massif {
namespace {

constexpr auto OP = "massif::pick";
constexpr int64_t L = LANES<float>, CHUNK = 16 * L;
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

float largest(int64_t C, const float* l) {
  Vec<float> most = splat(LOWEST);
  for (int64_t i = 0; i < C; i += L) most = maximum<float>(most, keep<float>(load<float>(l + i, C - i), C - i, LOWEST));
  return lane_max<float>(most);
}

/// Σ exp((l_i − max) · cold) of up to CHUNK logits.
double weight(int64_t n, const float* l, float max, float cold) {
  Vec<float> sum = {};
  for (int64_t i = 0; i < n; i += L) sum += keep<float>(exp((load<float>(l + i, n - i) - max) * cold), n - i, 0.0f);
  return lane_sum<float>(sum);
}

double log_sum_exp(int64_t C, const float* l) {
  const float max = largest(C, l);
  double sum = 0;
  for (int64_t i = 0; i < C; i += CHUNK) sum += weight(std::min(CHUNK, C - i), l + i, max, 1);
  return max + std::log(sum);
}

struct Drawn {
  int64_t id = -1;
  double logprob = 0;
};

Drawn draw(int64_t C, const float* l, double temperature, double uniform) {
  const float max = largest(C, l);
  if (!(max > LOWEST)) return {};
  if (temperature == 0) return {std::find(l, l + C, max) - l, 0};
  const float cold = float(1 / temperature);
  double whole = 0;
  for (int64_t i = 0; i < C; i += CHUNK) whole += weight(std::min(CHUNK, C - i), l + i, max, cold);
  if (!(whole > 0)) return {};
  double rest = uniform * whole;
  Drawn last;
  for (int64_t from = 0; from < C; from += CHUNK) {
    const int64_t n = std::min(CHUNK, C - from);
    const double chunk = weight(n, l + from, max, cold);
    if (rest >= chunk && from + n < C) {
      rest -= chunk;
      continue;
    }
    for (int64_t i = from; i < from + n; i++) {
      const double w = exp(splat((l[i] - max) * cold))[0];
      if (w == 0) continue;
      last = {i, std::log(w / whole)};
      if ((rest -= w) < 0) return last;
    }
  }
  if (last.id >= 0) return last;
  // Rounding left a little behind the last chunk, which holds nothing that may come.
  return {std::find(l, l + C, max) - l, -std::log(whole)};
}

/// The logits of tokens that a mask allows; a word of 32 at a time.
void mask_row(int64_t C, const float* l, const uint32_t* mask, int64_t W, float* out) {
  for (int64_t from = 0; from < C; from += 32) {
    const int64_t n = std::min<int64_t>(32, C - from);
    const uint32_t bits = from / 32 < W ? mask[from / 32] : 0;
    if (bits == 0) std::fill_n(out + from, n, LOWEST);
    else if (bits == ~0u) std::copy_n(l + from, n, out + from);
    else for (int64_t i = 0; i < n; i++) out[from + i] = bits >> i & 1 ? l[from + i] : LOWEST;
  }
}

/// picks [P, 5]: row, a token that is taken already or −1, temperature, uniform in [0, 1), its mask or −1. → [P, 3]: token,
/// log p(token), and the logarithm of the probability with which it was drawn.
Tensor pick(const Tensor& logits_, const Tensor& picks_, const std::optional<Tensor>& never_, const std::optional<Tensor>& masks_) {
  constexpr int64_t X = 5;
  TORCH_CHECK(logits_.dim() == 2 && logits_.scalar_type() == at::kFloat && picks_.dim() == 2 && picks_.size(1) == X &&
                  picks_.scalar_type() == at::kDouble,
              OP, ": found logits ", logits_.sizes(), ", picks ", picks_.sizes(), ", expected float32 [N, C], float64 [P, 5]");
  TORCH_CHECK(!masks_ || (masks_->dim() == 2 && masks_->scalar_type() == at::kInt), OP, ": masks are int32 [M, W]");
  const Tensor logits = logits_.contiguous(), picks = picks_.contiguous(), never = never_ ? never_->contiguous() : Tensor(),
               masks = masks_ ? masks_->contiguous() : Tensor();
  const int64_t N = logits.size(0), C = logits.size(1), P = picks.size(0);
  const int64_t M = masks.defined() ? masks.size(0) : 0, W = masks.defined() ? masks.size(1) : 0;
  const auto* words = M ? reinterpret_cast<const uint32_t*>(masks.const_data_ptr<int32_t>()) : nullptr;
  const int64_t *bars = never.defined() ? never.const_data_ptr<int64_t>() : nullptr, count = never.defined() ? never.numel() : 0;
  for (int64_t i = 0; i < count; i++) TORCH_CHECK_INDEX(bars[i] >= 0 && bars[i] < C, OP, ": found token ", bars[i], " of ", C);
  const double* given = picks.const_data_ptr<double>();
  for (int64_t p = 0; p < P; p++)
    TORCH_CHECK_INDEX(given[p * X] >= 0 && given[p * X] < N && given[p * X + 1] < C && given[p * X + 4] < M, OP,
                      ": found row ", given[p * X], " of ", N, ", token ", given[p * X + 1], " of ", C, ", mask ",
                      given[p * X + 4], " of ", M);
  Tensor out = at::empty({P, 3}, picks.options());
  double* result = out.mutable_data_ptr<double>();
  constexpr int64_t WORTH_A_THREAD = 1 << 17;  // logits
  at::parallel_for(0, P, std::max<int64_t>(1, WORTH_A_THREAD / std::max<int64_t>(1, C)), [&](int64_t from, int64_t to) {
    static thread_local Scratch<float> scratch;
    for (int64_t p = from; p < to; p++) {
      const double* wish = given + p * X;
      const float *row = logits.const_data_ptr<float>() + int64_t(wish[0]) * C, *open = row;
      Drawn drawn{int64_t(wish[1])};
      if (drawn.id < 0) {
        const int64_t mask = int64_t(wish[4]);
        if (count || mask >= 0) {
          float* copy = scratch.get(C);
          if (mask >= 0) mask_row(C, row, words + mask * W, W, copy);
          else std::copy_n(row, C, copy);
          for (int64_t i = 0; i < count; i++) copy[bars[i]] = LOWEST;
          open = copy;
        }
        drawn = draw(C, open, wish[2], wish[3]);
      }
      const double told = drawn.id < 0 ? 0 : row[drawn.id] - log_sum_exp(C, row);
      result[p * 3] = told == told ? double(drawn.id) : -1;
      result[p * 3 + 1] = told;
      result[p * 3 + 2] = drawn.logprob;
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def("pick(Tensor logits_NC, Tensor picks_P5, Tensor? never=None, Tensor? masks_MW=None) -> Tensor");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) { m.impl("pick", pick); }

}  // namespace massif
