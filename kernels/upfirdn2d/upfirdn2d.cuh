// Upsample, FIR filter and downsample images. In both kernels, with g the filter in correlation
// order, output (oy, ox) is the sum over input pixels (iy, ix) of
//   g[iy * up - oy * down + pad][the same for x] * input[iy][ix].
#pragma once

#include "../csrc/math.cuh"

namespace realness::REALNESS_BACKEND {

struct Axis {
  int up, down, pad, taps;
  int64_t in, out;

  // The first input pixel that output `o` reads, and the tap it meets.
  REALNESS_DEVICE int64_t first_input(int64_t o) const {
    const int64_t position = o * down - pad;
    return position >= 0 ? (position + up - 1) / up : -(-position / up);
  }
  REALNESS_DEVICE int first_tap(int64_t o, int64_t input) const {
    return static_cast<int>(input * up - o * down + pad);
  }
};

template <class T>
struct Images {
  const T* in;
  T* out;
  const acc_t<T>* filter;  // [y.taps, x.taps]
  acc_t<T> gain;
  bool correlate;
  bool channels_last;
  int64_t channels;
  Axis x, y;

  REALNESS_DEVICE acc_t<T> tap(int ky, int kx) const {
    const bool inside = ky >= 0 && ky < y.taps && kx >= 0 && kx < x.taps;
    if (!inside) return 0;
    return gain * (correlate ? filter[ky * x.taps + kx]
                             : filter[(y.taps - 1 - ky) * x.taps + x.taps - 1 - kx]);
  }

  // Offset of a pixel: `plane` counts images (channels innermost) or channels of images.
  REALNESS_DEVICE int64_t offset(int64_t plane, int64_t channel, int64_t row, int64_t column,
                                 int64_t height, int64_t width) const {
    const int64_t pixel = (plane * height + row) * width + column;
    return channels_last ? pixel * channels + channel : pixel;
  }
};

struct Place {
  int64_t channel, column, strip, plane;
};

// Neighbouring threads take neighbouring memory: channels first where they are innermost.
REALNESS_DEVICE Place locate(int64_t i, int64_t channel_vectors, int64_t columns, int64_t strips) {
  uint64_t rest = static_cast<uint64_t>(i);
  Place place;
  place.channel = take(rest, static_cast<uint32_t>(channel_vectors));
  place.column = take(rest, static_cast<uint32_t>(columns));
  place.strip = take(rest, static_cast<uint32_t>(strips));
  place.plane = static_cast<int64_t>(rest);
  return place;
}

// Filters of up to 4x4 taps and factors 1 or 2, known at compile time. A thread keeps its share of
// the filter in registers and makes `rows` outputs below one another, so that every input row it
// loads serves all of them.
template <class T, int N, int up, int down, int rows>
struct SmallFilter {
  using A = acc_t<T>;
  static constexpr int kTaps = 4;
  static constexpr int kColumns = kTaps / up;           // taps that meet input, per output row
  static constexpr int kOffsets = kTaps + up - 1;       // taps before the phase is taken off
  static constexpr int kInputRows = (kOffsets - 1 + (rows - 1) * down) / up + 1;

  Images<T> images;
  int64_t channel_vectors, strips;

  REALNESS_DEVICE void operator()(int64_t i) const {
    const Axis &x = images.x, &y = images.y;
    const Place place = locate(i, channel_vectors, x.out, strips);
    const int64_t first_row = place.strip * rows;
    const int64_t ix = x.first_input(place.column);
    const int kx = x.first_tap(place.column, ix);
    // The last input row at or above the strip's first position, and by how far it is above.
    const int64_t position = first_row * down - y.pad;
    const int64_t iy = position >= 0 ? position / up : -((up - 1 - position) / up);
    const int phase = static_cast<int>(position - iy * up);

    A taps[kOffsets][kColumns];
    REALNESS_UNROLL
    for (int m = 0; m < kOffsets; ++m) {
      REALNESS_UNROLL
      for (int t = 0; t < kColumns; ++t) taps[m][t] = images.tap(m - phase, kx + t * up);
    }
    A sums[rows][N] = {};
    REALNESS_UNROLL
    for (int j = 0; j < kInputRows; ++j) {
      REALNESS_UNROLL
      for (int t = 0; t < kColumns; ++t) {
        if (iy + j < 0 || iy + j >= y.in || ix + t < 0 || ix + t >= x.in) continue;
        const auto pixel = load<N>(
            images.in + images.offset(place.plane, place.channel * N, iy + j, ix + t, y.in, x.in));
        REALNESS_UNROLL
        for (int r = 0; r < rows; ++r) {
          const int m = j * up - r * down;
          if (m < 0 || m >= kOffsets) continue;
          REALNESS_UNROLL
          for (int n = 0; n < N; ++n) sums[r][n] += taps[m][t] * static_cast<A>(pixel.lane[n]);
        }
      }
    }
    REALNESS_UNROLL
    for (int r = 0; r < rows; ++r) {
      if (first_row + r >= y.out) continue;
      Vector<T, N> result;
      REALNESS_UNROLL
      for (int n = 0; n < N; ++n) result.lane[n] = static_cast<T>(sums[r][n]);
      store(images.out + images.offset(place.plane, place.channel * N, first_row + r, place.column,
                                       y.out, x.out),
            result);
    }
  }
};

// Any filter and any factors, an output vector a thread.
template <class T, int N>
struct AnyFilter {
  using A = acc_t<T>;
  Images<T> images;
  int64_t channel_vectors;

  REALNESS_DEVICE void operator()(int64_t i) const {
    const Axis &x = images.x, &y = images.y;
    const Place place = locate(i, channel_vectors, x.out, y.out);
    const int64_t ix = x.first_input(place.column), iy = y.first_input(place.strip);
    const int kx = x.first_tap(place.column, ix), ky = y.first_tap(place.strip, iy);
    A sums[N] = {};
    for (int j = 0; ky + j * y.up < y.taps; ++j) {
      if (iy + j < 0 || iy + j >= y.in) continue;
      for (int t = 0; kx + t * x.up < x.taps; ++t) {
        if (ix + t < 0 || ix + t >= x.in) continue;
        const A tap = images.tap(ky + j * y.up, kx + t * x.up);
        const auto pixel = load<N>(
            images.in + images.offset(place.plane, place.channel * N, iy + j, ix + t, y.in, x.in));
        REALNESS_UNROLL
        for (int n = 0; n < N; ++n) sums[n] += tap * static_cast<A>(pixel.lane[n]);
      }
    }
    Vector<T, N> result;
    REALNESS_UNROLL
    for (int n = 0; n < N; ++n) result.lane[n] = static_cast<T>(sums[n]);
    store(images.out + images.offset(place.plane, place.channel * N, place.strip, place.column,
                                     y.out, x.out),
          result);
  }
};

}  // namespace realness::REALNESS_BACKEND
