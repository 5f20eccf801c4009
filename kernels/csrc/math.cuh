// Types and arithmetic shared by all kernels.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "platform.h"

namespace realness::REALNESS_BACKEND {

// Values of type T are computed with in acc_t<T>.
template <class T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <class T>
using acc_t = typename Accumulate<T>::type;

#if defined(__CUDACC__)
REALNESS_DEVICE float exp_(float x) { return expf(x); }
REALNESS_DEVICE float log_(float x) { return logf(x); }
REALNESS_DEVICE float log1p_(float x) { return log1pf(x); }
REALNESS_DEVICE float tanh_(float x) { return tanhf(x); }
REALNESS_DEVICE float sqrt_(float x) { return sqrtf(x); }
REALNESS_DEVICE double exp_(double x) { return exp(x); }
REALNESS_DEVICE double log_(double x) { return log(x); }
REALNESS_DEVICE double log1p_(double x) { return log1p(x); }
REALNESS_DEVICE double tanh_(double x) { return tanh(x); }
REALNESS_DEVICE double sqrt_(double x) { return sqrt(x); }
#else
template <class A> A exp_(A x) { return std::exp(x); }
template <class A> A log_(A x) { return std::log(x); }
template <class A> A log1p_(A x) { return std::log1p(x); }
template <class A> A tanh_(A x) { return std::tanh(x); }
template <class A> A sqrt_(A x) { return std::sqrt(x); }
#endif

template <class A>
REALNESS_DEVICE A abs_(A x) {
  return x < A(0) ? -x : x;
}

// x within [-limit, limit]; NaN stays NaN. One instruction per bound.
REALNESS_DEVICE float clamped(float x, float limit) {
#if defined(__CUDA_ARCH__)
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(x) : "f"(x), "f"(limit));
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(x) : "f"(x), "f"(-limit));
  return x;
#else
  return x > limit ? limit : x < -limit ? -limit : x;
#endif
}
REALNESS_DEVICE double clamped(double x, double limit) {
  return x > limit ? limit : x < -limit ? -limit : x;
}

// A 16-byte (or single-element) access.
template <class T, int N>
struct alignas(sizeof(T) * N) Vector {
  T lane[N];
};
template <class T>
constexpr int kVectorSize = 16 / sizeof(T);

template <int N, class T>
REALNESS_DEVICE Vector<T, N> load(const T* pointer) {
  return *reinterpret_cast<const Vector<T, N>*>(pointer);
}
template <class T, int N>
REALNESS_DEVICE void store(T* pointer, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(pointer) = vector;
}

// Splits off the fastest index: returns i % size and leaves i / size. 64-bit division is slow on a
// GPU and rarely needed.
REALNESS_DEVICE int64_t take(uint64_t& i, uint32_t size) {
  const uint64_t quotient = i >> 32 ? i / size : static_cast<uint32_t>(i) / size;
  const int64_t remainder = static_cast<int64_t>(i - quotient * size);
  i = quotient;
  return remainder;
}

// A [rows, columns] matrix with any strides, read in acc_t<T>.
template <class T>
struct Matrix {
  const T* data;
  int64_t row_stride, column_stride;
  REALNESS_DEVICE acc_t<T> operator()(int64_t row, int64_t column) const {
    return static_cast<acc_t<T>>(data[row * row_stride + column * column_stride]);
  }
};

}  // namespace realness::REALNESS_BACKEND
