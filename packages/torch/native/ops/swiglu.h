// One row of SwiGLU and its gradient, with a factor: the routing weight of an expert's row, 1 elsewhere.
//
//   [a, b] = gate_up_2I        h = s · silu(a) · b
#pragma once

#include "vec.h"

namespace massif {

template <class T, class S, class H>
void swiglu_row(int64_t I, const T* gate_up, S scale, H* h) {
  for (int64_t i = 0; i < I; i += LANES<S>) {
    const Vec<S> a = load<S>(gate_up + i, I - i), b = load<S>(gate_up + I + i, I - i);
    store<S>(h + i, a * sigmoid<S>(a) * b * scale, I - i);
  }
}

/// d gate_up from g = dh; returns dscale = Σ g · silu(a) · b. `d` may be `gate_up` itself.
template <class T, class S, class G, class D>
S swiglu_row_backward(int64_t I, const T* gate_up, S scale, const G* g, D* d) {
  Vec<S> dscale = {};
  for (int64_t i = 0; i < I; i += LANES<S>) {
    const Vec<S> a = load<S>(gate_up + i, I - i), b = load<S>(gate_up + I + i, I - i), dh = load<S>(g + i, I - i);
    const Vec<S> sigma = sigmoid<S>(a), silu = a * sigma;
    dscale += dh * silu * b;
    store<S>(d + i, dh * scale * b * sigma * (S(1) + a * (S(1) - sigma)), I - i);
    store<S>(d + I + i, dh * scale * silu, I - i);
  }
  return lane_sum<S>(dscale);
}

}  // namespace massif
