// Affine grids over images that are extended by reflection, and the filter sym6.
//
// "Nodes" are the samples of the doubled input, node m = sum over n of 2 f[m - 2n] x[n], and "grid
// points" those of the doubled output, y[j] = sum over t of f[t] s[2j + t]; f is sym6 with sum 1.
#pragma once

#include "../csrc/group.cuh"

namespace realness::REALNESS_BACKEND {

constexpr int kTaps = 12;
constexpr int kCentre = 5;           // the tap that counts as the centre
constexpr int kMargin = kTaps - 2;   // grid points beyond two per pixel
constexpr double kMaxScale = 16;

// Tap k of sym6, divided by the sum of all; 0 beyond its ends. A literal once k is known.
template <class A>
REALNESS_DEVICE constexpr A sym6(int k) {
  constexpr double unit = 0.70710678118654752440;  // 1 / sqrt(2)
  switch (k) {
    case 0: return static_cast<A>(0.015404109327027373 * unit);
    case 1: return static_cast<A>(0.0034907120842174702 * unit);
    case 2: return static_cast<A>(-0.11799011114819057 * unit);
    case 3: return static_cast<A>(-0.048311742585633 * unit);
    case 4: return static_cast<A>(0.4910559419267466 * unit);
    case 5: return static_cast<A>(0.787641141030194 * unit);
    case 6: return static_cast<A>(0.3379294217276218 * unit);
    case 7: return static_cast<A>(-0.07263752278646252 * unit);
    case 8: return static_cast<A>(-0.021060292512300564 * unit);
    case 9: return static_cast<A>(0.04472490177066578 * unit);
    case 10: return static_cast<A>(0.0017677118642428036 * unit);
    case 11: return static_cast<A>(-0.007800708325034148 * unit);
    default: return A(0);
  }
}

REALNESS_DEVICE int least(int a, int b) { return a < b ? a : b; }
template <class A>
REALNESS_DEVICE int floor_to_int(A x) {
  const int whole = static_cast<int>(x);
  return whole - (x < static_cast<A>(whole));
}

// Images of the same size: where their pixels are.
struct PixelLayout {
  int64_t channels;
  int height, width;
  bool channels_last;

  REALNESS_DEVICE int64_t plane_size() const { return static_cast<int64_t>(height) * width; }
  REALNESS_DEVICE int64_t first(int64_t image, int64_t channel) const {
    return channels_last ? image * channels * plane_size() + channel
                         : (image * channels + channel) * plane_size();
  }
  REALNESS_DEVICE int64_t column_stride() const { return channels_last ? channels : 1; }
  REALNESS_DEVICE int64_t channel_stride() const { return channels_last ? 1 : plane_size(); }
};

// Walks through the pixels of a row that goes on by reflection: 0, 1, ..., n - 1, n - 2, ..., 1.
struct Reflection {
  int phase, period;
  REALNESS_DEVICE Reflection(int place, int size) : period(size > 1 ? 2 * (size - 1) : 1) {
    phase = place % period;
    phase += phase < 0 ? period : 0;
  }
  REALNESS_DEVICE int pixel() const { return least(phase, period - phase); }
  REALNESS_DEVICE void next() { phase = phase + 1 == period ? 0 : phase + 1; }
};

// One image's matrix. Grid point (x, y) lies at node (xx x + xy y + x0, yx x + yy y + y0).
struct Affine {
  double xx, xy, yx, yy, x0, y0;
  int copy_x, copy_y;  // output pixel (0, 0) is this input pixel, if pixels are copied
  bool finite, copies;

  REALNESS_DEVICE Affine(const float* inverse, int height, int width) {
    const double shift = kMaxScale * (height > width ? height : width);
    finite = true;
    for (int i = 0; i < 6; ++i) finite &= abs_(inverse[i]) <= 3.4028234e38f;
    xx = bounded(inverse[0], kMaxScale), xy = bounded(inverse[1], kMaxScale);
    yx = bounded(inverse[3], kMaxScale), yy = bounded(inverse[4], kMaxScale);
    const double tx = bounded(inverse[2], shift), ty = bounded(inverse[5], shift);
    const double px = pixel(tx, xx, xy, width, height), py = pixel(ty, yy, yx, height, width);
    copy_x = floor_to_int(px), copy_y = floor_to_int(py);
    const double ax = abs_(xx), ay = abs_(yy);
    copies = (ax == 0 || ax == 1) && ax == ay && abs_(xy) == 1 - ax && abs_(yx) == 1 - ax &&
             px == copy_x && py == copy_y;
    x0 = 2 * tx + width - 1 + kCentre - xx * (width - 1 + kCentre) - xy * (height - 1 + kCentre);
    y0 = 2 * ty + height - 1 + kCentre - yx * (width - 1 + kCentre) - yy * (height - 1 + kCentre);
  }
  REALNESS_DEVICE double x(double column, double row) const { return xx * column + xy * row + x0; }
  REALNESS_DEVICE double y(double column, double row) const { return yx * column + yy * row + y0; }

 private:
  REALNESS_DEVICE static double bounded(double value, double limit) {
    return value > limit ? limit : value > -limit ? value : -limit;
  }
  // The input pixel, along one axis, of output pixel (0, 0).
  REALNESS_DEVICE static double pixel(double shift, double along, double across, int size,
                                      int other) {
    return shift + 0.5 * (size - 1) - 0.5 * along * (size - 1) - 0.5 * across * (other - 1);
  }
};

// Mixes the three channels of a pixel, color [3, 4]; without the last column if `linear`.
template <class A>
REALNESS_DEVICE void mix(const float* color, bool linear, A (&pixel)[3]) {
  const A r = pixel[0], g = pixel[1], b = pixel[2];
  REALNESS_UNROLL
  for (int c = 0; c < 3; ++c) {
    const float* row = color + 4 * c;
    pixel[c] = row[0] * r + row[1] * g + row[2] * b + (linear ? A(0) : static_cast<A>(row[3]));
  }
}
template <class A>
REALNESS_DEVICE void mix_transposed(const float* color, A (&pixel)[3]) {
  const A r = pixel[0], g = pixel[1], b = pixel[2];
  REALNESS_UNROLL
  for (int c = 0; c < 3; ++c) pixel[c] = color[c] * r + color[4 + c] * g + color[8 + c] * b;
}

// The images of a call: K channels are treated together, three where colours are mixed.
template <class T, int K>
struct Pixels {
  const T* in;
  T* out;
  const float *inverse, *color;  // color may be null
  PixelLayout layout;

  REALNESS_DEVICE Affine affine(int64_t image) const {
    return Affine(inverse + 6 * image, layout.height, layout.width);
  }
  REALNESS_DEVICE void read(int64_t plane, int row, int column, acc_t<T> (&pixel)[K]) const {
    const T* from = in + plane + (static_cast<int64_t>(row) * layout.width + column) *
                                     layout.column_stride();
    REALNESS_UNROLL
    for (int c = 0; c < K; ++c) pixel[c] = static_cast<acc_t<T>>(from[c * layout.channel_stride()]);
  }
  REALNESS_DEVICE void write(int64_t plane, int row, int column, const acc_t<T> (&pixel)[K]) const {
    T* to = out + plane + (static_cast<int64_t>(row) * layout.width + column) *
                              layout.column_stride();
    REALNESS_UNROLL
    for (int c = 0; c < K; ++c) to[c * layout.channel_stride()] = static_cast<T>(pixel[c]);
  }
};

// A tile of the images: which, and its pixels.
struct Place {
  int64_t image, channel;
  int row, column, height, width;
};

// Divides planes of height x width into tiles.
struct Tiling {
  int64_t channel_groups;
  int across, down, width, height;

  REALNESS_DEVICE Place locate(int64_t i, int tile_width, int tile_height, int channels) const {
    uint64_t rest = static_cast<uint64_t>(i);
    Place place;
    place.column = static_cast<int>(take(rest, static_cast<uint32_t>(across))) * tile_width;
    place.row = static_cast<int>(take(rest, static_cast<uint32_t>(down))) * tile_height;
    place.channel = take(rest, static_cast<uint32_t>(channel_groups)) * channels;
    place.image = static_cast<int64_t>(rest);
    place.width = least(tile_width, width - place.column);
    place.height = least(tile_height, height - place.row);
    return place;
  }
};

}  // namespace realness::REALNESS_BACKEND
