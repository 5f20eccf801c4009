// Per-sample inner products and scaling: closed under differentiation, so that penalties on
// gradients of gradients stay on these two kernels.
#pragma once

#include "../csrc/group.cuh"

namespace realness::REALNESS_BACKEND {

constexpr int64_t kDotVectorsPerThread = 8;

// Partial inner products: block `i` handles one chunk of one sample.
template <class T, int N>
struct DotPartial {
  const T *x, *y;
  int64_t sample_size, chunk_size, num_chunks;
  acc_t<T>* partial;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t i, Group group) const {
    using A = acc_t<T>;
    const int64_t sample = i / num_chunks, start = i % num_chunks * chunk_size;
    const int64_t end = start + chunk_size < sample_size ? start + chunk_size : sample_size;
    const T *x_sample = x + sample * sample_size, *y_sample = y + sample * sample_size;
    typename Group::template Sum<A> total = 0;
    REALNESS_UNROLL_BY(4)  // loads in flight
    for (int64_t j = start + group.lane() * N; j < end; j += group.size() * N) {
      const auto a = load<N>(x_sample + j);
      const auto b = x == y ? a : load<N>(y_sample + j);
      REALNESS_UNROLL
      for (int n = 0; n < N; ++n) {
        total += static_cast<A>(a.lane[n]) * static_cast<A>(b.lane[n]);
      }
    }
    total = group.sum(total);
    if (group.lane() == 0) partial[i] = static_cast<A>(total);
  }
};

template <class A>
struct SumRows {
  Matrix<A> x;
  int64_t num_columns;
  A* sum;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    typename Group::template Sum<A> total = 0;
    for (int64_t k = group.lane(); k < num_columns; k += group.size()) total += x(row, k);
    total = group.sum(total);
    if (group.lane() == 0) sum[row] = static_cast<A>(total);
  }
};

// y[b, ...] = x[b, ...] * scale[b]
template <class T, int N>
struct ScaleSamples {
  const T* x;
  Matrix<acc_t<T>> scale;
  uint32_t vectors_per_sample;
  T* y;

  REALNESS_DEVICE void operator()(int64_t i) const {
    uint64_t sample = static_cast<uint64_t>(i);
    take(sample, vectors_per_sample);
    const auto factor = scale(0, static_cast<int64_t>(sample));
    auto values = load<N>(x + i * N);
    REALNESS_UNROLL
    for (int n = 0; n < N; ++n) {
      values.lane[n] = static_cast<T>(static_cast<acc_t<T>>(values.lane[n]) * factor);
    }
    store(y + i * N, values);
  }
};

}  // namespace realness::REALNESS_BACKEND
