// StyleGAN2's demodulation: d[b, o] = (sum_i style[b, i]^2 energy[o, i] + eps)^(-1/2) with
// energy[o, i] = sum_k weight[o, i, k]^2, one block per output channel.
#pragma once

#include "../csrc/group.cuh"

namespace realness::REALNESS_BACKEND {

constexpr int64_t kMaxStagedTaps = 2048;  // 8 KiB of float32

struct DemodulateSizes {
  int64_t batch, out_channels, in_channels, taps;
  bool channels_last;  // the weight

  REALNESS_DEVICE int64_t place(int64_t o, int64_t i, int64_t k) const {
    return channels_last ? (o * taps + k) * in_channels + i : (o * in_channels + i) * taps + k;
  }
};

template <class T>
struct DemodulateForward {
  using A = acc_t<T>;
  static constexpr int kScratch = kMaxStagedTaps * sizeof(A) / sizeof(double);
  const T* weight;
  Matrix<T> style;
  A eps;
  A *coefficient, *energy;
  DemodulateSizes sizes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t o, Group group) const {
    A* row = energy + o * sizes.in_channels;
    const T* own = weight + o * sizes.in_channels * sizes.taps;
    const auto square = [&](int64_t e) { return static_cast<A>(own[e]) * static_cast<A>(own[e]); };
    if (sizes.channels_last || sizes.taps > kMaxStagedTaps) {
      for (int64_t i = group.lane(); i < sizes.in_channels; i += group.size()) {
        A total = 0;
        for (int64_t k = 0; k < sizes.taps; ++k) total += square(sizes.place(0, i, k));
        row[i] = total;
      }
      group.sync();
    } else {  // taps of a channel are neighbours in memory, and so are those of neighbouring lanes
      group.sum_runs(sizes.in_channels, sizes.taps, square, row);
    }
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
      for (int64_t k = 0; k < sizes.taps; ++k) {
        const int64_t e = sizes.place(o, i, k);
        grad_weight[e] = static_cast<T>(2 * static_cast<A>(weight[e]) * static_cast<A>(total));
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
