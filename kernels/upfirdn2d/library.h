// The filter on a CPU by torch's convolution with a group per channel, where that is the fastest.
#pragma once

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>
#include <vector>

#include "../csrc/binding.h"
#include "upfirdn2d.cuh"

namespace realness::REALNESS_BACKEND {

// The arguments of aten::convolution beside its tensors, height before width.
struct Convolution {
  std::vector<int64_t> stride, padding, output_padding;
  bool transposed;
};

// The same filter as a convolution, or as a transposed one where pixels are inserted, if there is one
// that neither needs a padded copy of the image nor computes more than the result.
inline std::optional<Convolution> as_convolution(const Axis& x, const Axis& y) {
  Convolution found{{1, 1}, {}, {0, 0}, x.up > 1 || y.up > 1};
  if (found.transposed && (x.down > 1 || y.down > 1)) return std::nullopt;
  for (const int i : {0, 1}) {
    const Axis& axis = i == 0 ? y : x;
    const int64_t before = found.transposed ? axis.taps - 1 - axis.pad : axis.pad;
    if (before < 0) return std::nullopt;
    found.padding.push_back(before);
    if (found.transposed) {
      found.stride[i] = axis.up;
      found.output_padding[i] = axis.out - ((axis.in - 1) * axis.up - 2 * before + axis.taps);
      if (found.output_padding[i] < 0 || found.output_padding[i] >= axis.up) return std::nullopt;
    } else {
      found.stride[i] = axis.down;
      if ((axis.in + 2 * before - axis.taps) / axis.down + 1 != axis.out) return std::nullopt;
    }
  }
  return found;
}

// Whether the convolution is faster than the loops here. The limits are measured, on x86-64 with oneDNN
// and AVX-512 (benchmarks/LOG.md): a call takes 0.1 ms before it begins, contiguous images are copied
// to blocks of 16 channels and back, and transposed convolutions of bfloat16 are slow. Elsewhere
// nothing is measured, and the loops do all.
template <class T>
bool convolution_is_faster([[maybe_unused]] const Images<T>& images, [[maybe_unused]] int64_t batch,
                           [[maybe_unused]] bool transposed) {
#if defined(__x86_64__)
  constexpr int64_t kBlock = 16;
  const Axis &x = images.x, &y = images.y;
  const int64_t planes = batch * images.channels, outputs = planes * y.out * x.out;
  if constexpr (std::is_same_v<T, float>) {
    if (images.channels_last) return images.channels > 1 && outputs > 1 << 18;
    const bool is_large = planes * y.in * x.in + outputs > 1 << 23;
    const bool has_wide_loops = x.out % kVectorSize<T> == 0;
    return images.channels >= kBlock && !(is_large && has_wide_loops);
  }
#if defined(__AVX512BW__)
  if constexpr (std::is_same_v<T, torch::headeronly::BFloat16>) {
    if (images.channels_last) return !transposed && outputs >= 1 << 21;
    return !transposed && images.channels >= kBlock;
  }
#endif
#endif
  return false;
}

// The taps as a weight [channels, 1, kh, kw]; nothing if T cannot hold a tap exactly.
template <class T>
std::optional<Tensor> channel_weights(const Images<T>& images, bool transposed, const Tensor& x) {
  const int64_t height = images.y.taps, width = images.x.taps;
  Tensor weight = torch::stable::empty({images.channels, 1, height, width}, x.scalar_type(),
                                       std::nullopt, x.device(), std::nullopt,
                                       MemoryFormat::Contiguous);
  T* values = write<T>(weight);
  for (int64_t i = 0; i < height * width; ++i) {
    const int64_t k = transposed ? height * width - 1 - i : i;
    const acc_t<T> tap = images.tap(static_cast<int>(k / width), static_cast<int>(k % width));
    values[i] = static_cast<T>(tap);
    if (static_cast<acc_t<T>>(values[i]) != tap) return std::nullopt;
  }
  for (int64_t c = 1; c < images.channels; ++c) {
    std::copy_n(values, height * width, values + c * height * width);
  }
  return weight;
}

// The result by torch's convolution, in the layout of x; nothing where the loops should compute it.
template <class T>
std::optional<Tensor> by_library(const Tensor& x, const Images<T>& images) {
  const auto how = as_convolution(images.x, images.y);
  if (!how || !convolution_is_faster(images, x.size(0), how->transposed)) return std::nullopt;
  const auto weight = channel_weights(images, how->transposed, x);
  if (!weight) return std::nullopt;
  using torch::stable::detail::from;
  std::array stack{from(x),
                   from(*weight),
                   from(std::nullopt),
                   from(how->stride),
                   from(how->padding),
                   from(std::vector<int64_t>{1, 1}),
                   from(how->transposed),
                   from(how->output_padding),
                   from(images.channels)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
  return dense_as(torch::stable::detail::to<Tensor>(stack[0]), x);
}

}  // namespace realness::REALNESS_BACKEND
