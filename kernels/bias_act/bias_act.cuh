// y = clamp(gain * act(x + bias)) and its first two derivatives, element by element.
#pragma once

#include "../csrc/math.cuh"

namespace realness::REALNESS_BACKEND {

// The values are positions in ACTIVATIONS of reference.py.
enum Activation { kLinear, kRelu, kLeakyRelu, kSigmoid, kTanh, kSoftplus, kNumActivations };

template <class A>
struct Derivatives {
  A value, first, second;
};

template <class A>
REALNESS_DEVICE A sigmoid(A x) {
  return A(1) / (A(1) + exp_(-x));
}

// NaN compares false everywhere below, and comes out as in PyTorch.
template <int activation, class A>
REALNESS_DEVICE Derivatives<A> activate(A x, A slope) {
  if constexpr (activation == kRelu) {
    return {x <= A(0) ? A(0) : x, x <= A(0) ? A(0) : A(1), A(0)};
  } else if constexpr (activation == kLeakyRelu) {
    return {x > A(0) ? x : slope * x, x > A(0) ? A(1) : slope, A(0)};
  } else if constexpr (activation == kSigmoid) {
    const A s = sigmoid(x);
    return {s, s * (A(1) - s), s * (A(1) - s) * (A(1) - A(2) * s)};
  } else if constexpr (activation == kTanh) {
    const A t = tanh_(x);
    return {t, A(1) - t * t, A(-2) * t * (A(1) - t * t)};
  } else if constexpr (activation == kSoftplus) {
    if (x > A(20)) return {x, A(1), A(0)};  // as PyTorch: exp(-20) is lost in float32
    const A s = sigmoid(x);
    return {log1p_(exp_(x)), s, s * (A(1) - s)};
  } else {
    return {x, A(1), A(0)};
  }
}

// An element: y = clamp(gain * act(input)) for order 0, first * y' for 1, first * second * y'' for 2.
template <int order, int activation, class A>
REALNESS_DEVICE A bias_act_element(A input, A first, A second, A slope, A gain, A clamp) {
  const Derivatives<A> f = activate<activation>(input, slope);
  const A y = gain * f.value;
  if constexpr (order == 0) {
    return clamped(y, clamp);
  } else {
    const A passed = (abs_(y) <= clamp) | (clamp == A(INFINITY)) ? first : A(0);
    return order == 1 ? passed * gain * f.first : passed * second * gain * f.second;
  }
}

#if defined(REALNESS_HOST)

// Consecutive elements with one bias (a plane), or with a bias each (pixels with channels
// innermost), in a loop that compilers vectorise.
template <class T, int order, int activation>
struct BiasActRun {
  using A = acc_t<T>;
  const T *x, *grad, *grad_grad;
  const A* bias;  // never null
  T* out;
  int64_t length, count;  // of a run, and of all elements
  int64_t num_biases;     // 0: a bias for each element of a run
  A slope, gain, clamp;

  void operator()(int64_t run) const {
    const int64_t start = run * length, end = start + length < count ? start + length : count;
    if (num_biases == 0) {
      apply(start, end - start, [this](int64_t i) { return bias[i]; });
    } else {
      apply(start, end - start, [shift = bias[run % num_biases]](int64_t) { return shift; });
    }
  }

  template <class Shift>
  void apply(int64_t start, int64_t size, Shift shift) const {
    const T* __restrict values = x + start;
    const T* __restrict firsts = order >= 1 ? grad + start : nullptr;
    const T* __restrict seconds = order == 2 ? grad_grad + start : nullptr;
    T* __restrict results = out + start;
    const A slope_ = slope, gain_ = gain, clamp_ = clamp;
    for (int64_t i = 0; i < size; ++i) {
      const A first = order >= 1 ? static_cast<A>(firsts[i]) : A(0);
      const A second = order == 2 ? static_cast<A>(seconds[i]) : A(0);
      const A input = static_cast<A>(values[i]) + shift(i);
      results[i] = static_cast<T>(bias_act_element<order, activation>(input, first, second, slope_,
                                                                      gain_, clamp_));
    }
  }
};

#else

// order 0: y; 1: grad * y'; 2: grad * grad_grad * y''. N elements per thread.
template <class T, int N, int order>
struct BiasAct {
  using A = acc_t<T>;
  const T *x, *grad, *grad_grad;
  const A* bias;
  T* out;
  // A vector's elements have one channel, i / skip % channels, or count up from i * N % channels
  // if the channels are innermost; wide_bias: the biases can be read 16 bytes at a time.
  uint32_t skip, channels;
  bool channels_innermost, wide_bias;
  int activation;
  A slope, gain, clamp;

  REALNESS_DEVICE void operator()(int64_t i) const {
    switch (activation) {
      case kLinear: return apply<kLinear>(i);
      case kRelu: return apply<kRelu>(i);
      case kLeakyRelu: return apply<kLeakyRelu>(i);
      case kSigmoid: return apply<kSigmoid>(i);
      case kTanh: return apply<kTanh>(i);
      default: return apply<kSoftplus>(i);
    }
  }

  template <int act>
  REALNESS_DEVICE void apply(int64_t i) const {
    A shift[N] = {};
    if (bias) read_bias(i, shift);
    const auto values = load<N>(x + i * N);
    Vector<T, N> first{}, second{}, result;
    if constexpr (order >= 1) first = load<N>(grad + i * N);
    if constexpr (order == 2) second = load<N>(grad_grad + i * N);
    REALNESS_UNROLL
    for (int n = 0; n < N; ++n) {
      A input = static_cast<A>(values.lane[n]);
      if (bias) input += shift[n];
      const A output = bias_act_element<order, act>(input, static_cast<A>(first.lane[n]),
                                                    static_cast<A>(second.lane[n]), slope, gain,
                                                    clamp);
      result.lane[n] = static_cast<T>(output);
    }
    store(out + i * N, result);
  }

  REALNESS_DEVICE void read_bias(int64_t i, A (&shift)[N]) const {
    uint64_t rest = static_cast<uint64_t>(i) * (channels_innermost ? N : 1);
    if (!channels_innermost) take(rest, skip);
    auto channel = static_cast<uint32_t>(take(rest, channels));
    if (wide_bias) {
      constexpr int M = N < kVectorSize<A> ? N : kVectorSize<A>;
      REALNESS_UNROLL
      for (int n = 0; n < N; n += M) {
        const auto part = load<M>(bias + channel + n);
        REALNESS_UNROLL
        for (int m = 0; m < M; ++m) shift[n + m] = part.lane[m];
      }
      return;
    }
    A value = bias[channel];
    REALNESS_UNROLL
    for (int n = 0; n < N; ++n) {
      shift[n] = value;
      if (!channels_innermost || n + 1 == N) continue;
      channel = channel + 1 == channels ? 0 : channel + 1;
      value = bias[channel];
    }
  }
};

#endif

}  // namespace realness::REALNESS_BACKEND
