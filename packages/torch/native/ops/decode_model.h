// A model packed for decoding: one tensor of bytes, which begins with this description of itself. Made by decode_pack.cc,
// run by decode_step.cc. The names are those of the checkpoint (specification §1.6–1.11).
// D width, H heads, nope and R query widths without and with position, C latent, V value, Q query rank, E experts, k a token.
#pragma once

#include "packed.h"

namespace massif {

/// What does not change from layer to layer.
struct DecodeSizes {
  int64_t L, D, H, nope, R, C, V, Q, E, k, groups, open_groups, vocab, norm_topk;
  double scale, eps, latent_eps, routed_scale;
  int64_t K() const { return nope + R; }
  int64_t W() const { return C + R; }
};

/// Vectors are float32, at so many bytes; matrices that a layer does not have are of 0 rows.
struct DecodeLayer {
  int64_t norm1, norm2, q_norm, kv_norm, bias;
  Matrix q_in, kv_in;  // of the residual stream: q_a_proj (q_proj where Q = 0), kv_a_proj_with_mqa
  Matrix q_b;
  Matrix key, value;  // kv_b_proj's of the first head: [C, nope], which absorbs a query, and [V, C]
  Matrix out;
  Matrix router, expert_in, expert_out;  // the first expert's
  Matrix mlp_in, mlp_out;                // dense, or the shared experts'
};

struct DecodeModel {
  static constexpr int64_t MAGIC = 0x6d61737369660001;
  int64_t magic, bytes;
  DecodeSizes n;
  Format format;     // of activations: float32, or rounded to bfloat16 before a product
  Format attention;  // of key and value: float64 where attention is computed in it, else as the others
  int64_t final_norm;
  Matrix head;

  const DecodeLayer& layer(int64_t l) const { return reinterpret_cast<const DecodeLayer*>(this + 1)[l]; }
  DecodeLayer& layer(int64_t l) { return reinterpret_cast<DecodeLayer*>(this + 1)[l]; }
  const char* data() const { return reinterpret_cast<const char*>(this); }
  const float* vector(int64_t at) const { return reinterpret_cast<const float*>(data() + at); }
};

}  // namespace massif
