// Packs a model's weights for massif::decode_step into one tensor of bytes (decode_model.h, packed.h).
//
// Weights come in the order of the forward pass, without the embedding: of each layer input_layernorm, q_proj (or q_a_proj,
// q_a_layernorm, q_b_proj), kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj, post_attention_layernorm, then
// gate_up_proj and down_proj, or gate, e_score_correction_bias, the experts' [E, 2I, D] and [E, D, I] and, if there are
// shared experts, their gate_up_proj and down_proj; then norm and lm_head. In int4 an experts' matrix is two tensors, int8
// values [E, O, I] from −8 to 7 and bfloat16 scales [E, O, I / 32]; the other matrices are bfloat16, the router float32.
#include "op.h"

#include "decode_model.h"

namespace massif {
namespace {

constexpr auto OP = "massif::decode_pack";

template <class In>
void pack_pairs(const Matrix& m, Mat<const In> w_NK, char* panels) {
  auto* out = reinterpret_cast<c10::BFloat16*>(panels);
  for (int64_t n = 0; n < m.panels() * COLS; n++)
    for (int64_t k = 0; k < (m.K + 1) / 2 * 2; k++)
      out[((n / COLS * ((m.K + 1) / 2) + k / 2) * COLS + n % COLS) * 2 + k % 2] =
          n < m.N && k < m.K ? c10::BFloat16(float(w_NK.at[n * w_NK.rs + k * w_NK.cs])) : c10::BFloat16(0.0f);
}

void pack_nibbles(const Matrix& m, const int8_t* values_NK, const c10::BFloat16* scale_NG, char* panels) {
  constexpr int64_t BYTES = COLS * (2 + GROUP / 2);
  const int64_t groups = m.K / GROUP;
  for (int64_t n = 0; n < m.panels() * COLS; n++)
    for (int64_t g = 0; g < groups; g++) {
      char* group = panels + (n / COLS * groups + g) * BYTES;
      const int64_t col = n % COLS;
      reinterpret_cast<c10::BFloat16*>(group)[col] = n < m.N ? scale_NG[n * groups + g] : c10::BFloat16(0.0f);
      const int8_t* v = values_NK + n * m.K + g * GROUP;
      auto* words = reinterpret_cast<uint32_t*>(group + COLS * 2) + col;
      for (int64_t i = 0; i < GROUP / 8; i++, v += 8) {
        uint32_t word = 0;
        for (int64_t k = 0; k < 8; k++) word |= uint32_t(n < m.N ? v[k] + 8 : 8) << (k % 2 * 16 + k / 2 * 4);
        words[i * COLS] = word;
      }
    }
}

/// Goes over the weights in their order: without a place to write to it only lays them out.
class Packing {
 public:
  Packing(at::TensorList weights, DecodeModel& model, char* base) : weights_(weights), model_(model), base_(base) {}

  void run() {
    const DecodeSizes& n = model_.n;
    bytes_ = sizeof(DecodeModel) + n.L * sizeof(DecodeLayer);
    for (int64_t l = 0; l < n.L; l++) layer(model_.layer(l));
    model_.final_norm = vector(n.D);
    model_.head = matrix(n.vocab, n.D);
    TORCH_CHECK(next_ == weights_.size(), OP, ": found ", weights_.size(), " weights, expected ", next_);
    model_.bytes = aligned();
  }

 private:
  at::TensorList weights_;
  DecodeModel& model_;
  char* base_;
  size_t next_ = 0;
  int64_t bytes_ = 0;

  void layer(DecodeLayer& layer) {
    const DecodeSizes& n = model_.n;
    layer.norm1 = vector(n.D);
    layer.q_in = matrix(n.Q ? n.Q : n.H * n.K(), n.D);
    if (n.Q) {
      layer.q_norm = vector(n.Q);
      layer.q_b = matrix(n.H * n.K(), n.Q);
    }
    layer.kv_in = matrix(n.W(), n.D);
    layer.kv_norm = vector(n.C);
    const Tensor kv = take({n.H * (n.nope + n.V), n.C});
    layer.key = fill(kv, n.H, n.C, n.nope, {(n.nope + n.V) * n.C, 1, n.C}, 0, model_.attention);
    layer.value = fill(kv, n.H, n.V, n.C, {(n.nope + n.V) * n.C, n.C, 1}, n.nope * n.C, model_.attention);
    layer.out = matrix(n.D, n.H * n.V);
    layer.norm2 = vector(n.D);
    const bool dense = next_ + 1 >= weights_.size() || weights_[next_ + 1].dim() == 2;  // else the router's bias follows
    if (dense) return mlp(layer);
    layer.router = fill(take({n.E, n.D}), 1, n.E, n.D, {0, n.D, 1}, 0, Format::float32);
    layer.bias = vector(n.E);
    layer.expert_in = experts(peek().size(1), n.D);
    layer.expert_out = experts(n.D, layer.expert_in.N / 2);
    // The next layer begins with a vector; shared experts are matrices.
    if (peek().dim() == 2) mlp(layer);
  }

  void mlp(DecodeLayer& layer) {
    layer.mlp_in = matrix(peek().size(0), model_.n.D);
    layer.mlp_out = matrix(model_.n.D, layer.mlp_in.N / 2);
  }

  const Tensor& peek() const {
    TORCH_CHECK(next_ < weights_.size(), OP, ": found ", weights_.size(), " weights, expected more");
    return weights_[next_];
  }

  Tensor take(at::IntArrayRef shape) {
    const Tensor& w = peek();
    next_++;
    TORCH_CHECK(w.sizes() == shape, OP, ": weight ", next_ - 1, " is ", w.sizes(), ", expected ", shape);
    TORCH_CHECK(w.is_cpu(), OP, ": weight ", next_ - 1, " is on ", w.device(), ", expected the CPU");
    return base_ ? w.detach().contiguous() : w;
  }

  int64_t aligned() const { return (bytes_ + 63) / 64 * 64; }
  int64_t reserve(int64_t bytes) {
    const int64_t at = aligned();
    bytes_ = at + bytes;
    return at;
  }

  int64_t vector(int64_t n) {
    const Tensor w = take({n});
    const int64_t at = reserve(n * sizeof(float));
    if (base_) std::memcpy(base_ + at, w.to(at::kFloat).const_data_ptr<float>(), n * sizeof(float));
    return at;
  }

  Matrix matrix(int64_t N, int64_t K) { return fill(take({N, K}), 1, N, K, {0, K, 1}, 0); }

  /// `count` matrices of [N, K] that lie within w, their elements `strides` (matrix, n, k) apart, the first at `offset`.
  Matrix fill(const Tensor& w, int64_t count, int64_t N, int64_t K, std::array<int64_t, 3> strides, int64_t offset,
              std::optional<Format> format = {}) {
    Matrix m{format.value_or(model_.format), N, K, 0};
    m.at = reserve(count * m.bytes());
    if (!base_) return m;
    AT_DISPATCH_FLOATING_TYPES_AND(at::kBFloat16, w.scalar_type(), OP, [&] {
      const scalar_t* from = w.const_data_ptr<scalar_t>() + offset;
      each_panel(m, count, [&](int64_t i, int64_t first, const Matrix& panel) {
        const Mat<const scalar_t> w_NK{from + i * strides[0] + first * strides[1], strides[1], strides[2]};
        if (m.format == Format::float32)
          pack<float, scalar_t>(K, panel.N, w_NK.t(), reinterpret_cast<float*>(base_ + panel.at));
        else if (m.format == Format::float64)
          pack<double, scalar_t>(K, panel.N, w_NK.t(), reinterpret_cast<double*>(base_ + panel.at));
        else
          pack_pairs<scalar_t>(panel, w_NK, base_ + panel.at);
      });
    });
    return m;
  }

  /// The E matrices [N, K] of the experts.
  Matrix experts(int64_t N, int64_t K) {
    const int64_t E = model_.n.E;
    if (peek().scalar_type() != at::kChar) return fill(take({E, N, K}), E, N, K, {N * K, K, 1}, 0);
    TORCH_CHECK(K % GROUP == 0, OP, ": found int4 rows of ", K, ", expected a multiple of ", GROUP);
    const Tensor values = take({E, N, K}), scales = take({E, N, K / GROUP});
    TORCH_CHECK(scales.scalar_type() == at::kBFloat16, OP, ": scales are ", scales.scalar_type(), ", expected bfloat16");
    Matrix m{Format::int4, N, K, 0};
    m.at = reserve(E * m.bytes());
    if (base_)
      each_panel(m, E, [&](int64_t i, int64_t first, const Matrix& panel) {
        pack_nibbles(panel, values.const_data_ptr<int8_t>() + (i * N + first) * K,
                     scales.const_data_ptr<c10::BFloat16>() + (i * N + first) * (K / GROUP), base_ + panel.at);
      });
    return m;
  }

  /// f(matrix, its first row, a matrix of one panel) for all panels, on all threads.
  template <class F>
  static void each_panel(const Matrix& m, int64_t count, const F& f) {
    const int64_t panels = m.panels(), worth = (1 << 14) / std::max<int64_t>(1, m.K * COLS);
    at::parallel_for(0, count * panels, std::max<int64_t>(1, worth), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) {
        const int64_t first = i % panels * COLS;
        f(i / panels, first, {m.format, std::min(COLS, m.N - first), m.K, m.at + i * m.panel_bytes()});
      }
    });
  }
};

DecodeModel& model_of(Tensor& packed) {
  auto* model = static_cast<DecodeModel*>(packed.data_ptr());
  TORCH_CHECK(packed.nbytes() >= sizeof(DecodeModel) && model->magic == DecodeModel::MAGIC, OP, ": found other bytes");
  return *model;
}

/// sizes and factors: DecodeSizes in order. `narrow`: matrices in bfloat16, activations rounded to it before a product;
/// `wide`: attention in float64, over a cache in it.
Tensor decode_pack(at::TensorList weights, at::IntArrayRef sizes, at::ArrayRef<double> factors, bool narrow, bool wide) {
  TORCH_CHECK(sizes.size() == 14 && factors.size() == 4, OP, ": found ", sizes.size(), " sizes and ", factors.size(),
              " factors, expected 14 and 4");
  const DecodeSizes n{sizes[0], sizes[1],  sizes[2],  sizes[3],  sizes[4],   sizes[5],   sizes[6],   sizes[7],  sizes[8],
                      sizes[9], sizes[10], sizes[11], sizes[12], sizes[13],  factors[0], factors[1], factors[2], factors[3]};
  TORCH_CHECK(!narrow || !wide, OP, ": found attention in float64 beside bfloat16");
  TORCH_CHECK(!narrow || (n.D | n.nope | n.R | n.C | n.V | n.Q) % 2 == 0, OP, ": found an odd width, expected pairs");
  TORCH_CHECK(n.groups <= 64 && n.E % std::max<int64_t>(1, n.groups) == 0, OP, ": found ", n.E, " experts in ", n.groups, " groups");
  const auto bytes = at::TensorOptions().dtype(at::kByte);
  Tensor head = at::zeros({int64_t(sizeof(DecodeModel) + n.L * sizeof(DecodeLayer))}, bytes);
  auto* model = static_cast<DecodeModel*>(head.data_ptr());
  const Format format = narrow ? Format::bfloat16 : Format::float32;
  *model = {DecodeModel::MAGIC, 0, n, format, wide ? Format::float64 : format};
  Packing(weights, *model, nullptr).run();
  Tensor packed = at::empty({model->bytes}, bytes);
  std::memcpy(packed.data_ptr(), model, head.nbytes());
  Packing(weights, model_of(packed), static_cast<char*>(packed.data_ptr())).run();
  return packed;
}

/// The same again, from weights of the same shapes.
void decode_repack(Tensor packed, at::TensorList weights) {
  DecodeModel& model = model_of(packed);
  const int64_t bytes = model.bytes;
  Packing(weights, model, nullptr).run();
  TORCH_CHECK(model.bytes == bytes, OP, ": the weights take ", model.bytes, " bytes, expected ", bytes);
  Packing(weights, model, static_cast<char*>(packed.data_ptr())).run();
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) {
  m.def("decode_pack(Tensor[] weights, int[] sizes, float[] factors, bool narrow, bool wide=False) -> Tensor");
  m.def("decode_repack(Tensor(a!) packed, Tensor[] weights) -> ()");
}
TORCH_LIBRARY_IMPL(massif, CompositeExplicitAutograd, m) {
  m.impl("decode_pack", decode_pack);
  m.impl("decode_repack", [](Tensor& packed, at::TensorList weights) { decode_repack(packed, weights); });
}

}  // namespace massif
