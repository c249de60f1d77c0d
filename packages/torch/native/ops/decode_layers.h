// The phases of massif::decode_step, run by all threads of a team (DeepSeek-V3, arXiv 2412.19437; K2, 2507.20534):
//
//   x = embedding[id]
//   of each layer  x += attention(norm₁ x)  (decode_latent.h)
//                  h = norm₂ x,  x += mlp(h), or  x += mlp_shared(h) + Σ_k w_k expert_k(h)
//   logits = W_head norm x  of the rows that are wanted
//
// In float32 every sum is in the order in which training's operators have it: what RL rolls out by, it learns by.
// The residual stream, norms, router and sums are float32; where weights are narrow, what goes into a product is rounded to
// bfloat16. N rows, S = N·k slots of experts, A the experts' width, and the sizes of decode_model.h.
#pragma once

#include "decode_latent.h"
#include "decode_route.h"
#include "swiglu.h"

namespace massif {

/// What a step reads, and what it writes: the new entries of the cache, logits and chosen experts.
template <class Cache>
struct StepTensors {
  const int32_t* ids;
  const void* embedding;
  bool narrow_embedding;
  Latents<Cache> latents;
  float* wanted;  // logits, or where `hidden`, what they are made from
  bool hidden;
  int32_t* experts;
};

template <class Cache>
class Step {
 public:
  Step(const DecodeModel& model, const std::vector<Stretch>& stretches, const StepTensors<Cache>& given, int64_t threads)
      : model(model), n(model.n), given(given), arena(model.format == Format::bfloat16),
        attention(model, stretches, given.latents, threads), N(attention.N) {
    int64_t A = 0, mlp = 0;
    for (const Stretch& s : stretches)
      for (int64_t t = s.T - s.wanted; t < s.T; t++) wanted.push_back(s.row + t);
    for (int64_t l = 0; l < n.L; l++) {
      A = std::max(A, model.layer(l).expert_out.K);
      mlp = std::max(mlp, model.layer(l).mlp_out.K);
    }
    const int64_t S = A ? N * n.k : 0;
    arena.plan([&] {
      x = arena.rows(N, n.D), h = arena.rows(N, n.D), mlp_in = arena.rows(N, 2 * mlp), mlp_out = arena.rows(N, mlp);
      slot_x = arena.rows(S, n.D), slot_in = arena.rows(S, 2 * A), slot_h = arena.rows(S, A), slot_y = arena.rows(S, n.D);
      shared_y = arena.rows(A ? N : 0, n.D), scores = arena.rows(N, n.E), last = arena.rows(wanted.size(), n.D);
      attention.plan(arena);
    });
    routing.reserve(N, n.k, n.E);
  }

  void run(Team& team) {
    rows(team, [&](int64_t i) { embed(i); });
    int64_t with_experts = 0;
    for (int64_t l = 0; l < n.L; l++) {
      const DecodeLayer& layer = model.layer(l);
      rows(team, [&](int64_t i) { norm_row(model, x, i, layer.norm1, h); });
      attention.run(team, l, h, x);
      if (layer.router.N)
        mixture(team, layer, given.experts + with_experts++ * N * n.k);
      else
        dense(team, layer);
    }
    head(team);
  }

 private:
  const DecodeModel& model;
  const DecodeSizes& n;
  const StepTensors<Cache>& given;
  Arena arena;
  LatentAttention<Cache> attention;
  const int64_t N;
  std::vector<int64_t> wanted;  // rows whose logits are
  Rows x, h, mlp_in, mlp_out, slot_x, slot_in, slot_h, slot_y, shared_y, scores, last;
  Routing routing;

  template <class F>
  void products(Team& team, int64_t count, const F& job) const {
    massif::products(team, model.data(), count, job);
  }

  template <class F>
  void rows(Team& team, const F& f) const {
    team.share(N, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) f(i);
    });
  }

  void embed(int64_t i) const {
    const auto copy = [&](const auto* from) {
      for (int64_t d = 0; d < n.D; d += LANES<float>) store<float>(x.row(i) + d, load<float>(from + d, n.D - d), n.D - d);
    };
    if (given.narrow_embedding)
      copy(static_cast<const c10::BFloat16*>(given.embedding) + given.ids[i] * n.D);
    else
      copy(static_cast<const float*>(given.embedding) + given.ids[i] * n.D);
  }

  void dense(Team& team, const DecodeLayer& layer) const {
    rows(team, [&](int64_t i) { norm_row(model, x, i, layer.norm2, h); });
    products(team, 1, [&](int64_t) { return mlp_first(layer); });
    rows(team, [&](int64_t i) { activate(layer.mlp_out.K, mlp_in, mlp_out, i, 1); });
    products(team, 1, [&](int64_t) { return mlp_second(layer, x, true); });
  }

  Job mlp_first(const DecodeLayer& layer) const {
    const int64_t width = 2 * layer.mlp_out.K;
    return {layer.mlp_in, N, h.operand(), {mlp_in.at, nullptr, width}};
  }
  Job mlp_second(const DecodeLayer& layer, const Rows& y, bool add) const {
    const int64_t width = layer.mlp_out.K;
    return {layer.mlp_out, N, {mlp_out.at, mlp_out.pairs, width}, {y.at, nullptr, n.D}, 0, 0, add};
  }

  /// Row i of width I of the hidden layer, h = w · silu(gate) · up.
  void activate(int64_t I, const Rows& in, const Rows& out, int64_t i, float w) const {
    swiglu_row<float, float>(I, in.at + i * 2 * I, w, out.at + i * I);
    if (out.pairs) round_row(I, out.at + i * I, out.pairs + i * I / 2);
  }

  void mixture(Team& team, const DecodeLayer& layer, int32_t* chosen) {
    const int64_t A = layer.expert_out.K, S = N * n.k, shared = layer.mlp_in.N ? 1 : 0;
    team.share(N, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) norm_row(model, x, i, layer.norm2, h);
      multiply_range(layer.router, model.data(), 0, layer.router.panels(), to - from, h.operand(from), scores.row(from), n.E,
                     false);
      for (int64_t i = from; i < to; i++)
        routing.choose(n, scores.row(i), model.vector(layer.bias), chosen + i * n.k, i);
    });
    if (team.rank == 0) routing.sort(N, n.k, n.E, chosen);
    team.wait();
    team.share(S, [&](int64_t from, int64_t to) {
      for (int64_t s = from; s < to; s++) {
        std::copy_n(h.row(s / n.k), n.D, slot_x.row(routing.place[s]));
        if (h.pairs) std::copy_n(h.pairs + s / n.k * n.D / 2, n.D / 2, slot_x.pairs + routing.place[s] * n.D / 2);
      }
    });
    const auto rows_of = [&](int64_t e) { return routing.first[e + 1] - routing.first[e]; };
    products(team, routing.active + shared, [&](int64_t i) -> Job {
      if (i == routing.active) return mlp_first(layer);
      const int64_t e = routing.busy[i];
      return {layer.expert_in.nth(e), rows_of(e), slot_x.operand(routing.first[e]), {slot_in.at, nullptr, 2 * A}, routing.first[e]};
    });
    team.share(S + shared * N, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++)
        if (i < S)
          activate(A, slot_in, slot_h, routing.place[i], routing.weight[i]);
        else
          activate(layer.mlp_out.K, mlp_in, mlp_out, i - S, 1);
    });
    products(team, routing.active + shared, [&](int64_t i) -> Job {
      if (i == routing.active) return mlp_second(layer, shared_y, false);
      const int64_t e = routing.busy[i], at = routing.first[e];
      return {layer.expert_out.nth(e), rows_of(e), {slot_h.at + at * A, slot_h.pairs + at * A / 2, A},
              {slot_y.at, nullptr, n.D}, at};
    });
    rows(team, [&](int64_t i) {
      for (int64_t d = 0; d < n.D; d += LANES<float>) {
        Vec<float> sum = {};
        for (int64_t j = 0; j < n.k; j++) sum += load<float>(slot_y.row(routing.place[i * n.k + j]) + d, n.D - d);
        if (shared) sum += load<float>(shared_y.row(i) + d, n.D - d);
        store<float>(x.row(i) + d, load<float>(x.row(i) + d, n.D - d) + sum, n.D - d);
      }
    });
  }

  void head(Team& team) const {
    const int64_t count = int64_t(wanted.size());
    team.share(count, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) {
        norm(n.D, x.row(wanted[i]), model.vector(model.final_norm), n.eps, last.row(i));
        last.round(i, 0, n.D);
        if (given.hidden) std::copy_n(last.row(i), n.D, given.wanted + i * n.D);
      }
    });
    if (given.hidden) return;
    products(team, 1, [&](int64_t) -> Job { return {model.head, count, last.operand(), {given.wanted, nullptr, n.vocab}}; });
  }
};

}  // namespace massif
