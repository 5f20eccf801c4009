#include "squared_norm.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

int64_t sample_size(const Tensor& x) { return x.size(0) == 0 ? 0 : x.numel() / x.size(0); }

// [batch, chunks] partial sums of x * y over every sample.
template <class T, int N>
Tensor dot_partials(const Device& device, const Tensor& x, const Tensor& y) {
  const int64_t batch = x.size(0), size = sample_size(x);
  const int64_t chunk = kThreads * kDotVectorsPerThread * kVectorSize<T>;
  const int64_t num_chunks = (size + chunk - 1) / chunk;
  Tensor partial = torch::stable::new_empty(x, {batch, num_chunks}, accumulation_type(x));
  for_each_block(device.stream(), batch * num_chunks,
                 DotPartial<T, N>{read<T>(x), read<T>(y), size, chunk, num_chunks,
                                  write<acc_t<T>>(partial)});
  return partial;
}

Tensor sample_dot(const Tensor& x_any, const Tensor& y_any) {
  STD_TORCH_CHECK(x_any.dim() >= 1 && y_any.dim() == x_any.dim(), "expected [batch, ...] twice");
  bool same = x_any.const_data_ptr() == y_any.const_data_ptr();
  for (int64_t d = 0; d < x_any.dim(); ++d) {
    same &= x_any.stride(d) == y_any.stride(d);
    STD_TORCH_CHECK(x_any.size(d) == y_any.size(d), "x and y differ in dimension ", d, ": ",
                    x_any.size(d), " and ", y_any.size(d));
  }
  check_dtype("y", y_any, x_any.scalar_type());
  check_same_device(x_any, y_any);
  const Device device(x_any);
  const Tensor x = dense(x_any);
  const Tensor y = same ? x : dense_as(y_any, x);
  Tensor result = torch::stable::new_empty(x, {x.size(0)}, accumulation_type(x));
  dispatch_floating(x, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const bool wide =
        vectorizable<T>(sample_size(x), {x.const_data_ptr(), y.const_data_ptr()});
    const Tensor partial = wide ? dot_partials<T, kVectorSize<T>>(device, x, y)
                                : dot_partials<T, 1>(device, x, y);
    for_each_row(device.stream(), x.size(0),
                 SumRows<A>{matrix<A>(partial), partial.size(1), write<A>(result)});
  });
  return result;
}

Tensor scale_samples(const Tensor& x_any, const Tensor& scale) {
  STD_TORCH_CHECK(x_any.dim() >= 1, "expected [batch, ...]");
  check_same_device(x_any, scale);
  check_dtype("scale", scale, accumulation_type(x_any));
  check_sizes("scale", scale, {x_any.size(0)});
  STD_TORCH_CHECK(sample_size(x_any) <= UINT32_MAX, "samples of more than 2^32 - 1 elements");
  const Device device(x_any);
  const Tensor x = dense(x_any);
  Tensor y = torch::stable::empty_like(x);
  dispatch_floating(x, [&](auto type) {
    using T = typename decltype(type)::type;
    const Matrix<acc_t<T>> factors = matrix<acc_t<T>>(scale);
    const auto size = static_cast<uint32_t>(sample_size(x));
    constexpr int N = kVectorSize<T>;
    if (vectorizable<T>(size, {x.const_data_ptr(), y.const_data_ptr()})) {
      for_each(device.stream(), x.numel() / N,
               ScaleSamples<T, N>{read<T>(x), factors, size / N, write<T>(y)});
    } else {
      for_each(device.stream(), x.numel(),
               ScaleSamples<T, 1>{read<T>(x), factors, size, write<T>(y)});
    }
  });
  return y;
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("sample_dot", TORCH_BOX(&sample_dot));
  m.impl("scale_samples", TORCH_BOX(&scale_samples));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
