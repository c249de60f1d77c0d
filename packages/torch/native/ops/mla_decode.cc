// The core of multi-head latent attention as it decodes (DeepSeek-V2, arXiv 2405.04434 §2.1), over a paged cache:
//
//   cache[slot(b, position_n)] = [latent_n, R_n k_pe_n]                          for all new rows first
//   q̂_nh = [q_nope_nh · Wk_h, R_n q_rope_nh]         S_j = scale · q̂_nh · cache[slot(b, j)],  j ≤ position_n
//   out_nh = (Σ_j softmax(S)_j cache[slot(b, j)][:C]) · Wv_hᵀ
//
// Absorbed: keys and values are never rebuilt. Position j of sequence b lies in slot table[b, j / block] · block + j % block;
// a contiguous cache is one of one block a sequence. A row's result depends on nothing but its own sequence: neither on
// the other rows nor on the number of threads. No gradient.
// B sequences, T new rows each, N = B·T, S slots, M blocks a sequence, H heads, K = nope + R, C latent, W = C + R, V value.
#include "op.h"

#include <limits>

namespace massif {
namespace {

struct Sizes {
  int64_t B, T, H, nope, R, C, V, M, block;
  int64_t N() const { return B * T; }
  int64_t K() const { return nope + R; }
  int64_t W() const { return C + R; }
};

template <class T>
void rotate(int64_t R, const T* x, const T* cos, const T* sin, T* y) {
  for (int64_t r = 0; r < R / 2; r++) {
    const T a = x[2 * r], b = x[2 * r + 1];
    y[2 * r] = a * cos[r] - b * sin[r];
    y[2 * r + 1] = a * sin[r] + b * cos[r];
  }
}

/// p = softmax of n scores, in place.
template <class T>
void softmax(int64_t n, T* p) {
  constexpr int64_t L = LANES<T>;
  const T lowest = -std::numeric_limits<T>::infinity();
  Vec<T> most = splat(lowest), sum = {};
  for (int64_t j = 0; j < n; j += L) most = maximum<T>(most, keep<T>(load<T>(p + j, n - j), n - j, lowest));
  const Vec<T> max = splat(lane_max<T>(most));
  for (int64_t j = 0; j < n; j += L) {
    const Vec<T> e = keep<T>(exp(load<T>(p + j, n - j) - max), n - j, T(0));
    sum += e;
    store<T>(p + j, e, n - j);
  }
  const T r = T(1) / lane_sum<T>(sum);
  for (int64_t j = 0; j < n; j += L) store<T>(p + j, load<T>(p + j, n - j) * r, n - j);
}

template <class T>
struct Call {
  Sizes n;
  T scale;
  const T *q, *latent, *k_pe, *cos, *sin, *kv;  // kv: [H, nope + V, C]
  T* cache;
  const int32_t *table, *position;

  T* slot(int64_t b, int64_t j) const { return cache + (table[b * n.M + j / n.block] * n.block + j % n.block) * n.W(); }

  void write(int64_t row) const {
    T* entry = slot(row / n.T, position[row]);
    std::copy_n(latent + row * n.C, n.C, entry);
    rotate(n.R, k_pe + row * n.R, cos + row * n.R / 2, sin + row * n.R / 2, entry + n.C);
  }

  /// q̂ of all rows and one head, [N, W] at stride H·W.
  void absorb(int64_t h, T* query) const {
    multiply<T, T, T>(n.N(), n.C, n.nope, {q + h * n.K(), n.H * n.K()}, {kv + h * (n.nope + n.V) * n.C, n.C},
                      query + h * n.W(), n.H * n.W());
    for (int64_t row = 0; row < n.N(); row++)
      rotate(n.R, q + (row * n.H + h) * n.K() + n.nope, cos + row * n.R / 2, sin + row * n.R / 2,
             query + (row * n.H + h) * n.W() + n.C);
  }

  /// What `heads` heads of one row find: q̂ [heads, W] → [heads, C].
  void look(int64_t row, int64_t heads, const T* query, T* found) const {
    static thread_local Scratch<T> scratch;
    const int64_t b = row / n.T, seen = position[row] + 1;
    T* p = scratch.get(heads * seen);
    for (int64_t j = 0; j < seen; j += n.block)
      multiply<T, T, T>(heads, std::min(n.block, seen - j), n.W(), {query, n.W()}, {slot(b, j), 1, n.W()}, p + j, seen, false,
                        scale);
    for (int64_t h = 0; h < heads; h++) softmax(seen, p + h * seen);
    for (int64_t j = 0; j < seen; j += n.block)
      multiply<T, T, T>(heads, n.C, std::min(n.block, seen - j), {p + j, seen}, {slot(b, j), n.W()}, found, n.C, j > 0);
  }

  /// The values of one head, all rows: found [N, C] at stride H·C → out [N, V] at stride H·V.
  void values(int64_t h, const T* found, T* out) const {
    multiply<T, T, T>(n.N(), n.V, n.C, {found + h * n.C, n.H * n.C},
                      {kv + (h * (n.nope + n.V) + n.nope) * n.C, 1, n.C}, out + h * n.V, n.H * n.V);
  }
};

/// f(i) for i < count on all threads, where each has at least some microseconds of work.
template <class F>
void share(int64_t count, int64_t multiply_adds, const F& f) {
  constexpr int64_t WORTH_A_THREAD = 1 << 18;
  at::parallel_for(0, count, std::max<int64_t>(1, WORTH_A_THREAD / std::max<int64_t>(1, multiply_adds)),
                   [&](int64_t first, int64_t last) {
                     for (int64_t i = first; i < last; i++) f(i);
                   });
}

template <class T>
void run(const Call<T>& call, T* out) {
  static thread_local Scratch<T> scratch;
  const Sizes& n = call.n;
  T *query = scratch.get(n.N() * n.H * (n.W() + n.C)), *found = query + n.N() * n.H * n.W();
  int64_t longest = 1;
  for (int64_t row = 0; row < n.N(); row++) {
    call.write(row);
    longest = std::max<int64_t>(longest, call.position[row] + 1);
  }
  share(n.H, n.N() * n.nope * n.C, [&](int64_t h) { call.absorb(h, query); });
  // Heads share what they read of the cache; they part only where there are fewer rows than threads.
  const int64_t parts = std::min(n.H, blocks_of(at::get_num_threads(), n.N())), heads = blocks_of(n.H, parts);
  share(n.N() * parts, heads * longest * (n.W() + n.C), [&](int64_t i) {
    const int64_t row = i / parts, from = i % parts * heads, at = row * n.H + from;
    if (from < n.H) call.look(row, std::min(heads, n.H - from), query + at * n.W(), found + at * n.C);
  });
  share(n.H, n.N() * n.V * n.C, [&](int64_t h) { call.values(h, found, out); });
}

Tensor mla_decode(const Tensor& q_, const Tensor& latent_, const Tensor& k_pe_, const Tensor& cos_, const Tensor& sin_,
                  Tensor& cache, const Tensor& table_, const Tensor& position_, int64_t block, const Tensor& kv_,
                  int64_t nope, double scale) {
  constexpr auto op = "massif::mla_decode";
  TORCH_CHECK(q_.dim() == 4 && latent_.dim() == 3 && k_pe_.dim() == 3 && kv_.dim() == 3 && table_.dim() == 2, op,
              ": found q ", q_.sizes(), ", latent ", latent_.sizes(), ", k_pe ", k_pe_.sizes(), ", kv ", kv_.sizes(),
              ", table ", table_.sizes(), ", expected [B, T, H, K], [B, T, C], [B, T, R], [H, nope + V, C] and [B, M]");
  const Sizes n{q_.size(0),       q_.size(1), q_.size(2), nope, k_pe_.size(2), latent_.size(2), kv_.size(1) - nope,
                table_.size(1), block};
  check_shape(op, "q", q_, {n.B, n.T, n.H, n.K()});
  check_shape(op, "latent", latent_, {n.B, n.T, n.C});
  check_shape(op, "k_pe", k_pe_, {n.B, n.T, n.R});
  check_shape(op, "cos", cos_, {n.N(), n.R / 2});
  check_shape(op, "sin", sin_, {n.N(), n.R / 2});
  check_shape(op, "kv", kv_, {n.H, n.nope + n.V, n.C});
  check_shape(op, "table", table_, {n.B, n.M});
  check_shape(op, "position", position_, {n.B, n.T});
  for (const auto& [name, t] : {std::pair{"latent", &latent_}, {"k_pe", &k_pe_}, {"cos", &cos_}, {"sin", &sin_}, {"cache", &std::as_const(cache)}, {"kv", &kv_}})
    check_same_type(op, name, *t, q_);
  TORCH_CHECK(cache.dim() == 2 && cache.size(1) == n.W() && cache.is_contiguous(), op, ": cache is ", cache.sizes(),
              ", expected contiguous [slots, ", n.W(), "]");
  TORCH_CHECK(table_.scalar_type() == at::kInt && position_.scalar_type() == at::kInt, op,
              ": table and position are int32");
  const Tensor q = q_.contiguous(), latent = latent_.contiguous(), k_pe = k_pe_.contiguous(), cos = cos_.contiguous(),
               sin = sin_.contiguous(), kv = kv_.contiguous(), table = table_.contiguous(),
               position = position_.contiguous();
  const int32_t *blocks = table.const_data_ptr<int32_t>(), *at = position.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < table.numel(); i++)
    TORCH_CHECK(blocks[i] >= 0 && (blocks[i] + 1) * block <= cache.size(0), op, ": found block ", blocks[i],
                " in a cache of ", cache.size(0) / block);
  for (int64_t i = 0; i < n.N(); i++)
    TORCH_CHECK(at[i] >= 0 && at[i] < n.M * block, op, ": found position ", at[i], " in ", n.M, " blocks of ", block);
  Tensor out = at::empty({n.B, n.T, n.H, n.V}, q.options());
  AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), op, [&] {
    using T = scalar_t;
    const auto read = [](const Tensor& t) { return t.const_data_ptr<T>(); };
    run<T>({n, T(scale), read(q), read(latent), read(k_pe), read(cos), read(sin), read(kv), cache.mutable_data_ptr<T>(),
            blocks, at},
           out.mutable_data_ptr<T>());
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "mla_decode(Tensor q_BTHK, Tensor latent_BTC, Tensor k_pe_BTR, Tensor cos_NR2, Tensor sin_NR2, "
      "Tensor(a!) cache_SW, Tensor table_BM, Tensor position_BT, int block, Tensor kv_HXC, int nope, float scale) "
      "-> Tensor out_BTHV");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) { m.impl("mla_decode", mla_decode); }

}  // namespace massif
