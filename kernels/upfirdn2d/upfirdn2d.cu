#include <algorithm>
#include <optional>

#include "../csrc/binding.h"
#include "upfirdn2d.cuh"
#if defined(REALNESS_HOST)
#include "library.h"
#include "rows.h"
#endif

namespace realness::REALNESS_BACKEND {
namespace {

Axis axis(const char* name, int64_t up, int64_t down, int64_t before, int64_t after, int64_t taps,
          int64_t in) {
  STD_TORCH_CHECK(up >= 1 && down >= 1 && up <= 1 << 16 && down <= 1 << 16, name,
                  ": factors must be between 1 and 2^16, got up ", up, " and down ", down);
  STD_TORCH_CHECK(std::abs(before) <= 1 << 24 && std::abs(after) <= 1 << 24, name,
                  ": padding of more than 2^24");
  const int64_t padded = in * up + before + after;
  STD_TORCH_CHECK(padded >= taps, name, ": the padded image has ", padded,
                  " pixels, fewer than the filter's ", taps);
  const int64_t out = (padded - taps) / down + 1;
  STD_TORCH_CHECK(out <= INT32_MAX && in <= INT32_MAX, name, ": too large an image");
  return {static_cast<int>(up), static_cast<int>(down), static_cast<int>(before),
          static_cast<int>(taps), in, out};
}

template <class T, int N, bool along>
void launch(const Device& device, const Images<T>& images, int64_t planes) {
  const Axis &x = images.x, &y = images.y;
  const int64_t vectors = images.channels_last ? images.channels / N : 1;
  const int64_t columns = along ? x.out / N : x.out;
  const int64_t count = planes * y.in * x.in;
  const auto four_taps = [&](auto up, auto down) {
    using F = FourTaps<T, N, along, decltype(up)::value, decltype(down)::value>;
    // Short strips read rows twice, long ones leave a small image to few threads.
    const int lead = decltype(up)::value == 2 ? (y.pad + 1) & 1 : 0;
    const int64_t rows = y.out + lead, wide = planes * columns * vectors;
    const int64_t steps = std::clamp<int64_t>(rows * wide / kThreadsToFill / F::kStep, 1, 8);
    const int64_t strip_rows = steps * F::kStep, strips = (rows + strip_rows - 1) / strip_rows;
    for_each(device.stream(), wide * strips,
             F{images, count, vectors, columns, strips, static_cast<int>(strip_rows), lead});
  };
  const bool small = std::max({x.in, y.in, x.out, y.out}) < 1 << 28;  // 32 bits for places
  const bool square = small && x.up == y.up && x.down == y.down && x.taps == 4 && y.taps == 4;
  const std::integral_constant<int, 1> one;
  const std::integral_constant<int, 2> two;
  if (square && x.up == 1 && x.down == 1) return four_taps(one, one);
  if (square && x.up == 2 && x.down == 1) return four_taps(two, one);
  if (square && x.up == 1 && x.down == 2) return four_taps(one, two);
  constexpr int M = along ? 1 : N;
  for_each(device.stream(), planes * y.out * x.out * vectors, AnyFilter<T, M>{images, vectors});
}

template <class T>
void filter_images(const Device& device, const Images<T>& images, int64_t planes) {
#if defined(REALNESS_HOST)
  if (images.channels_last) {
    const int64_t width = images.x.out * images.channels;
    return for_each_run(device.stream(), planes * images.y.out * width, width,
                        FilterRow<T>{images});
  }
#endif
  constexpr int N = kVectorSize<T>;
  const auto aligned = [&](int64_t span) {
    return vectorizable<T>(span, {images.in, images.out});
  };
  const int64_t in_count = planes * images.y.in * images.x.in;
  if (images.channels_last && aligned(images.channels)) {
    launch<T, N, false>(device, images, planes);
  } else if (!images.channels_last && aligned(images.x.out) && in_count % N == 0) {
    launch<T, N, true>(device, images, planes);
  } else {
    launch<T, 1, false>(device, images, planes);
  }
}

Tensor upfirdn2d(const Tensor& x_any, const Tensor& filter_any, std::vector<int64_t> up,
                 std::vector<int64_t> down, std::vector<int64_t> padding, bool correlate,
                 double gain) {
  STD_TORCH_CHECK(x_any.dim() == 4, "x: expected [batch, channels, height, width]");
  STD_TORCH_CHECK(filter_any.dim() == 2 && filter_any.numel() > 0, "f: expected [kh, kw]");
  STD_TORCH_CHECK(up.size() == 2 && down.size() == 2 && padding.size() == 4,
                  "expected 2 up, 2 down and 4 padding numbers");
  check_same_device(x_any, filter_any);
  check_dtype("f", filter_any, accumulation_type(x_any));
  const Axis x_axis = axis("x axis", up[0], down[0], padding[0], padding[1], filter_any.size(1),
                           x_any.size(3));
  const Axis y_axis = axis("y axis", up[1], down[1], padding[2], padding[3], filter_any.size(0),
                           x_any.size(2));
  const int64_t batch = x_any.size(0), channels = x_any.size(1);
  const Device device(x_any);
  const Tensor x = dense(x_any), filter = dense(filter_any);
  const bool channels_last = is_channels_last(x);
  const auto empty = [&] {
    return torch::stable::empty({batch, channels, y_axis.out, x_axis.out}, x.scalar_type(),
                                std::nullopt, x.device(), std::nullopt, format_of(x));
  };
  if (batch * channels * y_axis.out * x_axis.out == 0) return empty();
  STD_TORCH_CHECK(channels <= INT32_MAX, "x: too many channels");
  std::optional<Tensor> out;
  dispatch_floating(x, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    Images<T> images{read<T>(x), nullptr, read<A>(filter), static_cast<A>(gain),
                     correlate, channels_last, channels, x_axis, y_axis};
#if defined(REALNESS_HOST)
    out = by_library(x, images);
    if (out) return;
#endif
    out = empty();
    images.out = write<T>(*out);
    filter_images(device, images, channels_last ? batch : batch * channels);
  });
  return *out;
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("upfirdn2d", TORCH_BOX(&upfirdn2d));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
