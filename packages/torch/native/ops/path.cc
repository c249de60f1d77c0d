// How this build's operators compute, for people: its vectors, and what bfloat16 products are made of.
#include <torch/library.h>

#include <string>

#include "vec.h"

namespace massif {
namespace {

std::string path() {
#if defined(__AVX512F__)
  const std::string vectors = "AVX-512";
#elif defined(__AVX2__)
  const std::string vectors = "AVX2";
#elif defined(__aarch64__)
  const std::string vectors = "NEON";
#else
  const std::string vectors = std::to_string(8 * VECTOR_BYTES) + "-bit vectors";
#endif
#if defined(__AVX512BF16__)
  return vectors + "; bfloat16 multiplied as it is (AVX512-bf16)";
#else
  return vectors + "; bfloat16 widened to float32 as it is read";
#endif
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(massif, m) { m.def("path() -> str", path); }

}  // namespace massif
