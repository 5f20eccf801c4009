#include "transpose.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

constexpr int64_t kMaxSide = 1 << 20;
constexpr int kWarpThreads = 128;

void check(const char* name, const Tensor& images, const Tensor& inverse,
           const std::optional<Tensor>& color) {
  STD_TORCH_CHECK(images.dim() == 4, name, ": expected [batch, channels, height, width]");
  STD_TORCH_CHECK(images.size(2) <= kMaxSide && images.size(3) <= kMaxSide &&
                      images.size(1) * images.size(3) <= INT32_MAX,
                  name, ": too large an image");
  check_same_device(images, inverse);
  check_dtype("inverse", inverse, ScalarType::Float);
  check_sizes("inverse", inverse, {images.size(0), 2, 3});
  if (!color) return;
  check_same_device(images, *color);
  check_dtype("color", *color, ScalarType::Float);
  check_sizes("color", *color, {images.size(0), 3, 4});
  STD_TORCH_CHECK(images.size(1) == 3, name, ": expected 3 channels with color");
}

int64_t count(const Tiling& tiling, int64_t batch) {
  return batch * tiling.channel_groups * tiling.down * tiling.across;
}

// `more`: rows and columns beyond the image's.
template <class T, int K>
Tiling pixel_tiles(const Pixels<T, K>& pixels, int more) {
  using Size = Tile<acc_t<T>, K>;
  const PixelLayout& layout = pixels.layout;
  const int width = layout.width + more, height = layout.height + more;
  return {layout.channels / K, (width + Size::kWidth - 1) / Size::kWidth,
          (height + Size::kHeight - 1) / Size::kHeight, width, height};
}

// Calls run(device, from, pixels) for images of any dtype, in threes of channels if there are three.
template <class Run>
Tensor between(const char* name, const Tensor& from_any, const Tensor& inverse_any,
               const std::optional<Tensor>& color_any, const Run& run) {
  check(name, from_any, inverse_any, color_any);
  const Device device(from_any);
  const Tensor from = dense(from_any), inverse = torch::stable::contiguous(inverse_any);
  const Tensor color = color_any ? torch::stable::contiguous(*color_any) : inverse;
  Tensor to = torch::stable::empty_like(from);
  if (to.numel() == 0) return to;
  const PixelLayout layout{from.size(1), static_cast<int>(from.size(2)),
                           static_cast<int>(from.size(3)), is_channels_last(from)};
  dispatch_floating(from, [&](auto type) {
    using T = typename decltype(type)::type;
    const float* colors = color_any ? read<float>(color) : nullptr;
    if (layout.channels == 3) {
      run(device, from, Pixels<T, 3>{read<T>(from), write<T>(to), read<float>(inverse), colors,
                                     layout});
    } else {
      run(device, from, Pixels<T, 1>{read<T>(from), write<T>(to), read<float>(inverse), nullptr,
                                     layout});
    }
  });
  return to;
}

Tensor warp(const Tensor& images, const Tensor& inverse, const std::optional<Tensor>& color,
            bool linear) {
  return between("images", images, inverse, color,
                 [&]<class T, int K>(const Device& device, const Tensor& from,
                                     const Pixels<T, K>& pixels) {
                   const Tiling tiling = pixel_tiles(pixels, 0);
                   for_each_block<kWarpThreads>(device.stream(), count(tiling, from.size(0)),
                                  WarpForward<T, K>{pixels, tiling, linear});
                 });
}

Tensor warp_backward(const Tensor& grad, const Tensor& inverse,
                     const std::optional<Tensor>& color) {
  return between(
      "grad", grad, inverse, color,
      [&]<class T, int K>(const Device& device, const Tensor& from, const Pixels<T, K>& pixels) {
        using A = acc_t<T>;
        const Tiling points = pixel_tiles(pixels, kMargin / 2), tiling = pixel_tiles(pixels, 0);
        Tensor grid = torch::stable::new_empty(
            from, {from.size(0), from.size(1), 2 * points.height, 2 * points.width},
            accumulation_type(from));
        for_each_block(device.stream(), count(points, from.size(0)),
                       GridGradient<T, K>{pixels, points, write<A>(grid)});
        for_each_block<kWarpThreads>(device.stream(), count(tiling, from.size(0)),
                       WarpBackward<T, K>{pixels, tiling, read<A>(grid)});
      });
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("warp", TORCH_BOX(&warp));
  m.impl("warp_backward", TORCH_BOX(&warp_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
