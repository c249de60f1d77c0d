// The phases of massif::decode_step, run by all threads of a team (DeepSeek-V3, arXiv 2412.19437; K2, 2507.20534):
//
//   x = embedding[id]
//   of each layer  h = norm₁ x,  q = W_qb norm(W_qa h),  [c, k] = W_kva h,  cache[slot(position)] = [norm c, R k]
//                  q̂_h = [q_h W_key_h, R q_pe_h],  f_h = attention(q̂_h, cache),  x += W_o [f_h W_value_hᵀ]_h
//                  h = norm₂ x,  x += mlp(h), or  x += mlp_shared(h) + Σ_k w_k expert_k(h)
//   logits = W_head norm x  of the rows that are wanted
//
// The residual stream, norms, router, softmax and sums are float32; where weights are narrow, what goes into a product is
// rounded to bfloat16. N rows, S = N·k slots of experts, A the experts' width, and the sizes of decode_model.h.
#pragma once

#include "decode_attention.h"
#include "decode_route.h"
#include "op.h"
#include "swiglu.h"
#include "team.h"

namespace massif {

constexpr int64_t LOOKING = 64;  // rows · heads that look together

/// New rows of one sequence: rows [row, row + T) stand at `start` and behind it; logits of the last `wanted` of them.
struct Stretch {
  int64_t row, T, start, wanted;
  const int32_t* blocks;
};

/// Rows of one stretch, and heads, that look at the cache together.
struct Look {
  int64_t stretch, row, rows, head, heads;
};

/// Activations of all rows, and beside them rounded pairs where the weights are narrow.
struct Rows {
  float* at = nullptr;
  Pair* pairs = nullptr;
  int64_t width = 0;
  float* row(int64_t i) const { return at + i * width; }
  Operand operand(int64_t i = 0, int64_t column = 0) const { return {row(i) + column, pairs + (i * width + column) / 2, width}; }
  void round(int64_t i, int64_t from, int64_t count) const {
    if (pairs) round_row(count, row(i) + from, pairs + (i * width + from) / 2);
  }
};

/// One product of a phase: M rows of x by w, to columns `column` … of rows `row` … of y.
struct Job {
  Matrix w;
  int64_t M;
  Operand x;
  Rows y;
  int64_t row = 0, column = 0;
  bool add = false;
};

/// y_d = w_d · x_d / √(mean x² + ε)
inline void norm(int64_t D, const float* x, const float* w, double eps, float* y) {
  constexpr int64_t L = LANES<float>;
  Vec<float> squares = {};
  for (int64_t d = 0; d < D; d += L) {
    const Vec<float> v = load<float>(x + d, D - d);
    squares += v * v;
  }
  const float r = 1 / std::sqrt(lane_sum<float>(squares) / float(D) + float(eps));
  for (int64_t d = 0; d < D; d += L) store<float>(y + d, load<float>(x + d, D - d) * r * load<float>(w + d, D - d), D - d);
}

template <class Out>
void rotate(int64_t R, const float* x, const float* cos, const float* sin, Out* y) {
  for (int64_t r = 0; r < R / 2; r++) {
    y[2 * r] = Out(x[2 * r] * cos[r] - x[2 * r + 1] * sin[r]);
    y[2 * r + 1] = Out(x[2 * r] * sin[r] + x[2 * r + 1] * cos[r]);
  }
}

/// Memory of a step: every buffer of it, one after the other.
class Arena {
 public:
  explicit Arena(bool narrow) : narrow_(narrow) {}
  Rows rows(int64_t N, int64_t width) {
    Rows r{floats(N * width), nullptr, width};
    if (narrow_) r.pairs = reinterpret_cast<Pair*>(floats((N * width + 1) / 2));
    return r;
  }
  float* floats(int64_t n) {
    const int64_t at = size_;
    size_ += (n + 31) / 32 * 32;
    return base_ + at;
  }
  /// Lays out once to know the size, and again in memory of it.
  template <class F>
  void plan(const F& layout) {
    layout();
    static thread_local Scratch<float> scratch;
    base_ = scratch.get(size_);
    size_ = 0;
    layout();
  }

 private:
  bool narrow_;
  float* base_ = nullptr;
  int64_t size_ = 0;
};

/// What a step reads, and what it writes: the new entries of the cache, logits and chosen experts.
template <class Cache>
struct StepTensors {
  const int32_t* ids;
  const void* embedding;
  bool narrow_embedding;
  const float *cos, *sin;
  Cache* cache;
  int64_t slots, block;
  float* wanted;  // logits, or where `hidden`, what they are made from
  bool hidden;
  int32_t* experts;
};

template <class Cache>
class Step {
 public:
  Step(const DecodeModel& model, const std::vector<Stretch>& stretches, const StepTensors<Cache>& given, int64_t threads)
      : model(model), n(model.n), stretches(stretches), given(given), arena(model.format == Format::bfloat16) {
    int64_t longest = 0, A = 0, mlp = 0;
    for (const Stretch& s : stretches) {
      stretch_of.resize(s.row + s.T, &s);
      for (int64_t t = s.T - s.wanted; t < s.T; t++) wanted.push_back(s.row + t);
      longest = std::max(longest, s.start + s.T);
    }
    N = int64_t(stretch_of.size());
    for (int64_t l = 0; l < n.L; l++) {
      A = std::max(A, model.layer(l).expert_out.K);
      mlp = std::max(mlp, model.layer(l).mlp_out.K);
    }
    plan_looks(threads);
    const int64_t S = A ? N * n.k : 0;
    arena.plan([&] {
      x = arena.rows(N, n.D), h = arena.rows(N, n.D), q_in = arena.rows(N, n.Q), q = arena.rows(N, n.H * n.K());
      kv_in = arena.rows(N, n.W()), query = arena.rows(N, n.H * n.W()), found = arena.rows(N, n.H * n.C);
      heads = arena.rows(N, n.H * n.V), mlp_in = arena.rows(N, 2 * mlp), mlp_out = arena.rows(N, mlp);
      slot_x = arena.rows(S, n.D), slot_in = arena.rows(S, 2 * A), slot_h = arena.rows(S, A), slot_y = arena.rows(S, n.D);
      scores = arena.rows(N, n.E), last = arena.rows(wanted.size(), n.D);
      look_size = look_scratch(look_rows, look_heads, longest, n.W());
      look_memory = arena.floats(threads * look_size);
    });
    routing.reserve(N, n.k, n.E);
  }

  void run(Team& team) {
    rows(team, [&](int64_t i) { embed(i); });
    int64_t with_experts = 0;
    for (int64_t l = 0; l < n.L; l++) {
      const DecodeLayer& layer = model.layer(l);
      attention(team, layer, given.cache + l * given.slots * n.W());
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
  const std::vector<Stretch>& stretches;
  const StepTensors<Cache>& given;
  std::vector<const Stretch*> stretch_of;  // of every row
  std::vector<int64_t> wanted;             // rows whose logits are
  Arena arena;
  int64_t N = 0, look_rows = 1, look_heads = 1, look_size = 0;
  std::vector<Look> looks;
  Rows x, h, q_in, q, kv_in, query, found, heads, mlp_in, mlp_out, slot_x, slot_in, slot_h, slot_y, scores, last;
  float* look_memory = nullptr;
  Routing routing;

  /// Rows of a sequence look together; the heads of a row part where there are fewer rows than threads.
  void plan_looks(int64_t threads) {
    const int64_t parts = std::min(n.H, std::max(blocks_of(threads, N), blocks_of(n.H, LOOKING)));
    look_heads = blocks_of(n.H, parts);
    look_rows = look_heads < n.H ? 1 : std::max<int64_t>(1, LOOKING / n.H);
    for (size_t s = 0; s < stretches.size(); s++)
      for (int64_t t = 0; t < stretches[s].T; t += look_rows)
        for (int64_t from = 0; from < n.H; from += look_heads)
          looks.push_back({int64_t(s), t, std::min(look_rows, stretches[s].T - t), from, std::min(look_heads, n.H - from)});
  }

  /// All panels of `count` products, shared out.
  template <class F>
  void products(Team& team, int64_t count, const F& job) const {
    int64_t panels = 0;
    for (int64_t i = 0; i < count; i++) panels += job(i).w.panels();
    team.share(panels, [&](int64_t from, int64_t to) {
      int64_t begin = 0;
      for (int64_t i = 0; i < count && begin < to; i++) {
        const Job j = job(i);
        const int64_t end = begin + j.w.panels(), first = std::max(from, begin) - begin, after = std::min(to, end) - begin;
        begin = end;
        if (first >= after || j.M == 0) continue;
        multiply_range(j.w, model.data(), first, after, j.M, j.x, j.y.row(j.row) + j.column, j.y.width, j.add);
        for (int64_t r = 0; r < j.M; r++)
          j.y.round(j.row + r, j.column + first * COLS, std::min(after * COLS, j.w.N) - first * COLS);
      }
    });
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

  void attention(Team& team, const DecodeLayer& layer, Cache* cache) const {
    rows(team, [&](int64_t i) { normed(x, i, layer.norm1, h); });
    const Rows& q_first = n.Q ? q_in : q;
    products(team, 2, [&](int64_t i) -> Job {
      if (i == 0) return {layer.q_in, N, h.operand(), q_first};
      return {layer.kv_in, N, h.operand(), kv_in};
    });
    rows(team, [&](int64_t i) {
      remember(i, layer, cache);
      if (!n.Q) return;
      norm(n.Q, q_in.row(i), model.vector(layer.q_norm), n.latent_eps, q_in.row(i));
      q_in.round(i, 0, n.Q);
    });
    if (n.Q) products(team, 1, [&](int64_t) -> Job { return {layer.q_b, N, q_in.operand(), q}; });
    products(team, n.H, [&](int64_t head) -> Job {
      return {layer.key.nth(head), N, q.operand(0, head * n.K()), {query.at, nullptr, query.width}, 0, head * n.W()};
    });
    team.share(int64_t(looks.size()), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) attend(looks[i], cache, look_memory + team.rank * look_size);
    });
    products(team, n.H, [&](int64_t head) -> Job {
      return {layer.value.nth(head), N, found.operand(0, head * n.C), heads, 0, head * n.V};
    });
    products(team, 1, [&](int64_t) -> Job { return {layer.out, N, heads.operand(), {x.at, nullptr, n.D}, 0, 0, true}; });
  }

  void normed(const Rows& from, int64_t i, int64_t weight, const Rows& to) const {
    norm(n.D, from.row(i), model.vector(weight), n.eps, to.row(i));
    to.round(i, 0, n.D);
  }

  /// Writes the entry of a new row into the cache: its normed latent, its rotated key.
  void remember(int64_t i, const DecodeLayer& layer, Cache* cache) const {
    const Stretch& s = *stretch_of[i];
    const int64_t at = s.start + i - s.row;
    float* kv = kv_in.row(i);
    Cache* entry = pages(s, cache).slot(at);
    norm(n.C, kv, model.vector(layer.kv_norm), n.latent_eps, kv);
    for (int64_t c = 0; c < n.C; c++) entry[c] = Cache(kv[c]);
    rotate(n.R, kv + n.C, given.cos + at * n.R / 2, given.sin + at * n.R / 2, entry + n.C);
  }

  Pages<Cache> pages(const Stretch& s, Cache* cache) const { return {cache, s.blocks, given.block, n.W()}; }

  void attend(const Look& l, Cache* cache, float* scratch) const {
    const Stretch& s = stretches[l.stretch];
    const int64_t first = s.row + l.row, at = s.start + l.row;
    for (int64_t t = 0; t < l.rows; t++)
      for (int64_t head = l.head; head < l.head + l.heads; head++)
        rotate(n.R, q.row(first + t) + head * n.K() + n.nope, given.cos + (at + t) * n.R / 2, given.sin + (at + t) * n.R / 2,
               query.row(first + t) + head * n.W() + n.C);
    look(pages(s, cache), l.rows, l.heads, at, n.C, float(n.scale),
         query.row(first) + l.head * n.W(), found.row(first) + l.head * n.C, scratch);
    for (int64_t t = 0; t < l.rows; t++) found.round(first + t, l.head * n.C, l.heads * n.C);
  }

  void dense(Team& team, const DecodeLayer& layer) const {
    rows(team, [&](int64_t i) { normed(x, i, layer.norm2, h); });
    products(team, 1, [&](int64_t) { return mlp_first(layer); });
    rows(team, [&](int64_t i) { activate(layer.mlp_out.K, mlp_in, mlp_out, i, 1); });
    products(team, 1, [&](int64_t) { return mlp_second(layer); });
  }

  Job mlp_first(const DecodeLayer& layer) const {
    const int64_t width = 2 * layer.mlp_out.K;
    return {layer.mlp_in, N, h.operand(), {mlp_in.at, nullptr, width}};
  }
  Job mlp_second(const DecodeLayer& layer) const {
    const int64_t width = layer.mlp_out.K;
    return {layer.mlp_out, N, {mlp_out.at, mlp_out.pairs, width}, {x.at, nullptr, n.D}, 0, 0, true};
  }

  /// Row i of width I of the hidden layer, h = w · silu(gate) · up.
  void activate(int64_t I, const Rows& in, const Rows& out, int64_t i, float w) const {
    swiglu_row<float, float>(I, in.at + i * 2 * I, w, out.at + i * I);
    if (out.pairs) round_row(I, out.at + i * I, out.pairs + i * I / 2);
  }

  void mixture(Team& team, const DecodeLayer& layer, int32_t* chosen) {
    const int64_t A = layer.expert_out.K, S = N * n.k, shared = layer.mlp_in.N ? 1 : 0;
    team.share(N, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) normed(x, i, layer.norm2, h);
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
      if (i == routing.active) return mlp_second(layer);
      const int64_t e = routing.busy[i], at = routing.first[e];
      return {layer.expert_out.nth(e), rows_of(e), {slot_h.at + at * A, slot_h.pairs + at * A / 2, A},
              {slot_y.at, nullptr, n.D}, at};
    });
    rows(team, [&](int64_t i) {
      for (int64_t d = 0; d < n.D; d += LANES<float>) {
        Vec<float> sum = load<float>(x.row(i) + d, n.D - d);
        for (int64_t j = 0; j < n.k; j++) sum += load<float>(slot_y.row(routing.place[i * n.k + j]) + d, n.D - d);
        store<float>(x.row(i) + d, sum, n.D - d);
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
