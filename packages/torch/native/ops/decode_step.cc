// One step of a whole model as it decodes: any number of sequences, each with any number of new rows, over a paged cache of
// latents. Weights are packed (decode_pack.cc); what is computed stands in decode_layers.h and decode_latent.h.
//
// A row's result depends on its own sequence alone: neither on the other rows, nor on how a sequence is cut into steps, nor
// on the number of threads. No gradient.
#include "decode_layers.h"

namespace massif {
namespace {

constexpr auto OP = "massif::decode_step";

/// Multiply-adds of the weights that a row passes through: what a step is shared out by.
int64_t work_a_row(const DecodeModel& model) {
  int64_t work = 0;
  for (int64_t l = 0; l < model.n.L; l++) {
    const DecodeLayer& y = model.layer(l);
    for (const Matrix& m : {y.q_in, y.kv_in, y.q_b, y.out, y.router, y.mlp_in, y.mlp_out}) work += m.N * m.K;
    for (const Matrix& m : {y.key, y.value}) work += model.n.H * m.N * m.K;
    for (const Matrix& m : {y.expert_in, y.expert_out}) work += model.n.k * m.N * m.K;
  }
  return work + model.head.N * model.head.K;
}

std::vector<Stretch> stretches_of(const Tensor& stretches_BX, int64_t N, int64_t blocks, int64_t block, int64_t positions) {
  TORCH_CHECK(stretches_BX.dim() == 2 && stretches_BX.size(1) > 3 && stretches_BX.scalar_type() == at::kInt, OP,
              ": stretches are ", stretches_BX.sizes(), " of ", stretches_BX.scalar_type(), ", expected int32 [B, 3 + M]");
  const int64_t B = stretches_BX.size(0), X = stretches_BX.size(1);
  std::vector<Stretch> out;
  int64_t row = 0;
  for (int64_t b = 0; b < B; b++) {
    const int32_t* s = stretches_BX.const_data_ptr<int32_t>() + b * X;
    out.push_back({row, s[1], s[0], s[2], s + 3});
    TORCH_CHECK(s[0] >= 0 && s[1] > 0 && s[2] >= 0 && s[2] <= s[1], OP, ": found a stretch of ", s[1], " rows from ", s[0],
                " with ", s[2], " wanted");
    const int64_t end = s[0] + s[1], used = blocks_of(end, block);
    TORCH_CHECK(used <= X - 3 && end <= positions, OP, ": found a stretch up to position ", end, " in ", X - 3, " blocks of ",
                block, ", and angles of ", positions);
    for (int64_t i = 0; i < used; i++)
      TORCH_CHECK(s[3 + i] >= 0 && s[3 + i] < blocks, OP, ": found block ", s[3 + i], " in a cache of ", blocks);
    row += s[1];
  }
  TORCH_CHECK(row == N, OP, ": found ", N, " ids for ", row, " rows");
  return out;
}

/// stretches [B, 3 + M]: where each begins, its rows, how many of its last rows want logits, its blocks.
/// → the logits of rows that want them, or what they are made from: the final norm's rows (`hidden`).
std::tuple<Tensor, Tensor> decode_step(const Tensor& packed, const Tensor& embedding, const Tensor& cos, const Tensor& sin,
                                       Tensor& cache_LSW, const Tensor& ids, const Tensor& stretches_BX, int64_t block, bool hidden) {
  const auto& model = *static_cast<const DecodeModel*>(packed.const_data_ptr());
  TORCH_CHECK(packed.nbytes() >= sizeof(DecodeModel) && model.magic == DecodeModel::MAGIC, OP,
              ": found other bytes than massif::decode_pack makes");
  const DecodeSizes& n = model.n;
  check_shape(OP, "embedding", embedding, {n.vocab, n.D});
  check_shape(OP, "cache", cache_LSW, {n.L, cache_LSW.size(1), n.W()});
  check_shape(OP, "cos", cos, {cos.size(0), n.R / 2});
  check_shape(OP, "sin", sin, cos.sizes());
  TORCH_CHECK(embedding.scalar_type() == at::kFloat || embedding.scalar_type() == at::kBFloat16, OP, ": embedding is ",
              embedding.scalar_type(), ", expected float32 or bfloat16");
  const bool wide = model.attention == Format::float64;
  const at::ScalarType angles = wide ? at::kDouble : at::kFloat;
  TORCH_CHECK(cos.scalar_type() == angles && sin.scalar_type() == angles && ids.scalar_type() == at::kInt, OP,
              ": angles are ", angles, ", ids int32");
  TORCH_CHECK(wide == (cache_LSW.scalar_type() == at::kDouble), OP, ": the cache is ", cache_LSW.scalar_type(),
              wide ? ", expected float64, which attention was packed for" : ", expected float32 or bfloat16");
  for (const Tensor& t : {embedding, cos, sin, cache_LSW, ids, stretches_BX})
    TORCH_CHECK(t.is_contiguous(), OP, ": its inputs must have been made contiguous");
  const int64_t N = ids.numel();
  const int32_t* id = ids.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < N; i++)
    TORCH_CHECK_INDEX(id[i] >= 0 && id[i] < n.vocab, OP, ": found token ", id[i], ", expected 0 … ", n.vocab - 1);
  const auto stretches = stretches_of(stretches_BX, N, cache_LSW.size(1) / block, block, cos.size(0));

  constexpr double WORTH_A_THREAD = 1 << 23;  // multiply-adds
  const int64_t threads = std::clamp<int64_t>(int64_t(double(N) * work_a_row(model) / WORTH_A_THREAD), 1, at::get_num_threads());
  int64_t mixtures = 0;
  for (int64_t l = 0; l < n.L; l++) mixtures += model.layer(l).router.N > 0;
  int64_t wanted = 0;
  for (const Stretch& s : stretches) wanted += s.wanted;
  Tensor experts = at::empty({mixtures, N, n.k}, ids.options()), out = at::empty({wanted, hidden ? n.D : n.vocab}, cos.options().dtype(at::kFloat));
  const auto run = [&]<class Cache>(Cache) {
    const Latents<Cache> latents{cache_LSW.mutable_data_ptr<Cache>(), cache_LSW.size(1), block,
                                 cos.const_data_ptr<Sum<Cache>>(), sin.const_data_ptr<Sum<Cache>>()};
    const StepTensors<Cache> given{id,
                                   embedding.const_data_ptr(),
                                   embedding.scalar_type() == at::kBFloat16,
                                   latents,
                                   out.mutable_data_ptr<float>(),
                                   hidden,
                                   experts.mutable_data_ptr<int32_t>()};
    Step<Cache> step(model, stretches, given, threads);
    as_team(threads, [&](Team& team) { step.run(team); });
  };
  AT_DISPATCH_SWITCH(cache_LSW.scalar_type(), OP, AT_DISPATCH_CASE(at::kFloat, [&] { run(scalar_t()); })
                                                      AT_DISPATCH_CASE(at::kDouble, [&] { run(scalar_t()); })
                                                      AT_DISPATCH_CASE(at::kBFloat16, [&] { run(scalar_t()); }));
  return {out, experts};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def(
      "decode_step(Tensor packed, Tensor embedding_CD, Tensor cos_PR, Tensor sin_PR, Tensor(a!) cache_LSW, Tensor ids_N, "
      "Tensor stretches_BX, int block, bool hidden=False) -> (Tensor wanted, Tensor experts_LNk)");
}
TORCH_LIBRARY_IMPL(massif, CPU, m) { m.impl("decode_step", decode_step); }

}  // namespace massif
