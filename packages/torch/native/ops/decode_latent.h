// Attention of one layer as massif::decode_step computes it, absorbed, over a paged cache of latents (DeepSeek-V2, arXiv
// 2405.04434 §2.1), for all rows h of the normed residual stream:
//
//   q = W_qb norm(W_qa h),  [c, k] = W_kva h,  cache[slot(position)] = [norm c, R k]
//   q̂_h = [q_h W_key_h, R q_pe_h],  f_h = attention(q̂_h, cache),  x += W_o [f_h W_value_hᵀ]_h
//
// What lies between q and W_o is computed in the cache's type where that is float64 (then W_key and W_value are packed in it),
// otherwise in float32: all but norm c, which is float32. What a head found is rounded once.
#pragma once

#include "decode_attention.h"
#include "decode_rows.h"

namespace massif {

constexpr int64_t LOOKING = 64;  // rows · heads that look together

/// Rows of one stretch, and heads, that look at the cache together.
struct Look {
  int64_t stretch, row, rows, head, heads;
};

/// The cache of all layers, and the angles of all positions.
template <class Cache>
struct Latents {
  Cache* cache;
  int64_t slots, block;
  const Sum<Cache> *cos, *sin;
};

template <class Cache>
class LatentAttention {
 public:
  using S = Sum<Cache>;

  LatentAttention(const DecodeModel& model, const std::vector<Stretch>& stretches, const Latents<Cache>& latents, int64_t threads)
      : N(stretches.empty() ? 0 : stretches.back().row + stretches.back().T), model(model), n(model.n), stretches(stretches),
        latents(latents), threads(threads) {
    for (const Stretch& s : stretches) {
      stretch_of.resize(s.row + s.T, &s);
      longest = std::max(longest, s.start + s.T);
    }
    plan_looks();
  }

  /// Rows of the step.
  const int64_t N;

  void plan(Arena& arena) {
    q_in = arena.rows(N, n.Q), q = arena.rows(N, n.H * n.K()), kv_in = arena.rows(N, n.W());
    query = {arena.array<S>(N * n.H * n.W()), nullptr, n.H * n.W()};
    found = arena.rows<S>(N, n.H * n.C), heads = arena.rows(N, n.H * n.V);
    look_size = look_scratch(look_rows, look_heads, longest, n.W());
    look_memory = arena.array<S>(threads * look_size);
  }

  /// x += attention(h) by the weights of layer l.
  void run(Team& team, int64_t l, const Rows& h, const Rows& x) const {
    const DecodeLayer& layer = model.layer(l);
    Cache* cache = latents.cache + l * latents.slots * n.W();
    const Rows& q_first = n.Q ? q_in : q;
    products(team, model.data(), 2, [&](int64_t i) -> Job {
      if (i == 0) return {layer.q_in, N, h.operand(), q_first};
      return {layer.kv_in, N, h.operand(), kv_in};
    });
    team.share(N, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) {
        remember(i, layer, cache);
        if (!n.Q) continue;
        norm(n.Q, q_in.row(i), model.vector(layer.q_norm), n.latent_eps, q_in.row(i));
        q_in.round(i, 0, n.Q);
      }
    });
    if (n.Q) products(team, model.data(), 1, [&](int64_t) -> Job { return {layer.q_b, N, q_in.operand(), q}; });
    by_head(team, layer.key, q, n.K(), query, n.W());
    team.share(int64_t(looks.size()), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) attend(looks[i], cache, look_memory + team.rank * look_size);
    });
    by_head(team, layer.value, found, n.C, heads, n.V);
    products(team, model.data(), 1, [&](int64_t) -> Job { return {layer.out, N, heads.operand(), {x.at, nullptr, n.D}, 0, 0, true}; });
  }

 private:
  const DecodeModel& model;
  const DecodeSizes& n;
  const std::vector<Stretch>& stretches;
  const Latents<Cache>& latents;
  const int64_t threads;
  std::vector<const Stretch*> stretch_of;  // of every row
  std::vector<Look> looks;
  int64_t longest = 0, look_rows = 1, look_heads = 1, look_size = 0;
  Rows q_in, q, kv_in, heads;
  RowsOf<S> query, found;
  S* look_memory = nullptr;

  /// Rows of a sequence look together; the heads of a row part where there are fewer rows than threads.
  void plan_looks() {
    const int64_t parts = std::min(n.H, std::max(blocks_of(threads, N), blocks_of(n.H, LOOKING)));
    look_heads = blocks_of(n.H, parts);
    look_rows = look_heads < n.H ? 1 : std::max<int64_t>(1, LOOKING / n.H);
    for (size_t s = 0; s < stretches.size(); s++)
      for (int64_t t = 0; t < stretches[s].T; t += look_rows)
        for (int64_t from = 0; from < n.H; from += look_heads)
          looks.push_back({int64_t(s), t, std::min(look_rows, stretches[s].T - t), from, std::min(look_heads, n.H - from)});
  }

  /// y_h = W_h x_h of all rows and heads; so many columns of x, and of y, are a head's.
  template <class In, class Out>
  void by_head(Team& team, const Matrix& w, const RowsOf<In>& x, int64_t in, const RowsOf<Out>& y, int64_t out) const {
    if constexpr (std::is_same_v<S, float>) {
      products(team, model.data(), n.H, [&](int64_t head) -> Job { return {w.nth(head), N, x.operand(0, head * in), y, 0, head * out}; });
    } else {
      team.share(n.H * w.panels(), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++) {
          const int64_t head = i / w.panels(), column = i % w.panels() * COLS;
          const auto* panel = reinterpret_cast<const S*>(model.data() + w.at + i * w.panel_bytes());
          multiply_packed<S, In>(N, std::min(COLS, w.N - column), w.K, {x.at + head * in, x.width}, panel,
                                 y.at + head * out + column, y.width);
        }
      });
    }
  }

  Pages<Cache> pages(const Stretch& s, Cache* cache) const { return {cache, s.blocks, latents.block, n.W()}; }

  template <class In, class Out>
  void rotate(int64_t position, const In* x, Out* y) const {
    const S *cos = latents.cos + position * n.R / 2, *sin = latents.sin + position * n.R / 2;
    for (int64_t r = 0; r < n.R / 2; r++) {
      const S a = x[2 * r], b = x[2 * r + 1];
      y[2 * r] = Out(a * cos[r] - b * sin[r]);
      y[2 * r + 1] = Out(a * sin[r] + b * cos[r]);
    }
  }

  /// Writes the entry of a new row into the cache: its normed latent, its rotated key.
  void remember(int64_t i, const DecodeLayer& layer, Cache* cache) const {
    const Stretch& s = *stretch_of[i];
    const int64_t at = s.start + i - s.row;
    float* kv = kv_in.row(i);
    Cache* entry = pages(s, cache).slot(at);
    norm(n.C, kv, model.vector(layer.kv_norm), n.latent_eps, kv);
    for (int64_t c = 0; c < n.C; c++) entry[c] = Cache(kv[c]);
    rotate(at, kv + n.C, entry + n.C);
  }

  void attend(const Look& l, Cache* cache, S* scratch) const {
    const Stretch& s = stretches[l.stretch];
    const int64_t first = s.row + l.row, at = s.start + l.row;
    for (int64_t t = 0; t < l.rows; t++)
      for (int64_t head = l.head; head < l.head + l.heads; head++)
        rotate(at + t, q.row(first + t) + head * n.K() + n.nope, query.row(first + t) + head * n.W() + n.C);
    look(pages(s, cache), l.rows, l.heads, at, n.C, S(n.scale), query.row(first) + l.head * n.W(),
         found.row(first) + l.head * n.C, scratch);
    for (int64_t t = 0; t < l.rows; t++) found.round(first + t, l.head * n.C, l.heads * n.C);
  }
};

}  // namespace massif
