// StyleGAN2's demodulation: d[b, o] = (sum_i style[b, i]^2 energy[o, i] + eps)^(-1/2) with
// energy[o, i] = sum_k weight[o, i, k]^2, a block an output channel.
#pragma once

#include "../csrc/group.cuh"

namespace realness::REALNESS_BACKEND {

struct DemodulateSizes {
  int64_t batch, out_channels, in_channels, taps;
};

template <class T>
struct DemodulateForward {
  using A = acc_t<T>;
  const T* weight;
  Matrix<T> style;
  A eps;
  A *coefficient, *energy;
  DemodulateSizes sizes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t o, Group group) const {
    A* row = energy + o * sizes.in_channels;
    for (int64_t i = group.lane(); i < sizes.in_channels; i += group.size()) {
      const T* taps = weight + (o * sizes.in_channels + i) * sizes.taps;
      A total = 0;
      for (int64_t k = 0; k < sizes.taps; ++k) {
        total += static_cast<A>(taps[k]) * static_cast<A>(taps[k]);
      }
      row[i] = total;
    }
    group.sync();
    const auto warp = group.warp();
    for (int64_t b = group.warp_index(); b < sizes.batch; b += group.num_warps()) {
      typename Group::template Sum<A> total = 0;
      for (int64_t i = warp.lane(); i < sizes.in_channels; i += warp.size()) {
        total += style(b, i) * style(b, i) * row[i];
      }
      total = warp.sum(total);
      if (warp.lane() == 0) {
        coefficient[b * sizes.out_channels + o] = A(1) / sqrt_(static_cast<A>(total) + eps);
      }
    }
  }
};

// d loss / d (the sum under the root) of one coefficient
template <class A>
REALNESS_DEVICE A pull(A grad, A coefficient) {
  return A(-0.5) * grad * coefficient * coefficient * coefficient;
}

// d/d weight[o, i, k] = 2 weight[o, i, k] sum_b pull[b, o] style[b, i]^2
template <class T>
struct DemodulateWeightGrad {
  using A = acc_t<T>;
  const T* weight;
  Matrix<T> style;
  Matrix<A> grad, coefficient;
  T* grad_weight;
  DemodulateSizes sizes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t o, Group group) const {
    for (int64_t i = group.lane(); i < sizes.in_channels; i += group.size()) {
      typename Group::template Sum<A> total = 0;
      for (int64_t b = 0; b < sizes.batch; ++b) {
        total += pull(grad(b, o), coefficient(b, o)) * style(b, i) * style(b, i);
      }
      const int64_t first = (o * sizes.in_channels + i) * sizes.taps;
      for (int64_t k = first; k < first + sizes.taps; ++k) {
        grad_weight[k] = static_cast<T>(2 * static_cast<A>(weight[k]) * static_cast<A>(total));
      }
    }
  }
};

// d/d style[b, i] = 2 style[b, i] sum_o pull[b, o] energy[o, i]
template <class T>
struct DemodulateStyleGrad {
  using A = acc_t<T>;
  Matrix<T> style;
  Matrix<A> grad, coefficient, energy;
  T* grad_style;
  DemodulateSizes sizes;

  REALNESS_DEVICE void operator()(int64_t item) const {
    const int64_t b = item / sizes.in_channels, i = item % sizes.in_channels;
    A total = 0;
    for (int64_t o = 0; o < sizes.out_channels; ++o) {
      total += pull(grad(b, o), coefficient(b, o)) * energy(o, i);
    }
    grad_style[item] = static_cast<T>(2 * style(b, i) * total);
  }
};

}  // namespace realness::REALNESS_BACKEND
