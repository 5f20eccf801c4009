// Upsample, FIR filter and downsample images. In all kernels, with g the filter in correlation
// order, output (oy, ox) is the sum over input pixels (iy, ix) of
//   g[iy * up - oy * down + pad][the same for x] * input[iy][ix].
#pragma once

#include "../csrc/wide.cuh"

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

  // The tap that an input pixel meets, 0 <= ky < y.taps and 0 <= kx < x.taps.
  REALNESS_DEVICE acc_t<T> tap(int ky, int kx) const {
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

// Filters of 4x4 taps with factors 1 or 2, known at compile time. A thread holds the filter in
// registers and walks down a strip of the image, N outputs wide: it loads every input row once and
// adds it to the output rows that it reaches. The N outputs are neighbouring channels or, with
// `along`, neighbouring columns. No tap is set to 0 for a missing input: 0 times infinity is NaN.
template <class T, int N, bool along, int up, int down>
struct FourTaps {
  using A = acc_t<T>;
  static constexpr int kBlocks = sizeof(A) == 4 ? 2 : 1;  // 128 registers a thread
  static constexpr int kTaps = 4;
  static constexpr int kReach = kTaps / up;  // inputs that an output reads along an axis
  static constexpr int kPhases = along ? up : 1;
  static constexpr int kWindow = (N - 1) * down / up + kReach + up - 1;  // columns, with `along`
  // A step takes kInputs rows and completes kStep, numbered from kBehind rows before the one that
  // the first input meets with tap 0. kCarry more are begun, kBefore inputs begin a strip's.
  static constexpr int kStep = 4 / down;
  static constexpr int kInputs = kStep * down / up;
  static constexpr int kBehind = (kTaps - 1) / down;
  static constexpr int kCarry = kBehind + 1 + (kInputs - 1) * up / down - kStep;
  static constexpr int kBefore = (kTaps - down) / up;

  Images<T> images;
  int64_t count, channel_vectors, column_vectors, strips;
  int strip_rows;
  int lead;  // rows before the image that put the strips' starts on an input row

  REALNESS_DEVICE void operator()(int64_t i) const {
    const Axis &x = images.x, &y = images.y;
    const Place place = locate(i, channel_vectors, column_vectors, strips);
    const int64_t column = place.column * (along ? N : 1);
    const int ix = static_cast<int>(x.first_input(column));
    const int phase = up == 1 ? 0 : x.first_tap(column, ix);
    A taps[kTaps][kPhases * kReach];
    REALNESS_UNROLL
    for (int m = 0; m < kTaps; ++m) {
      REALNESS_UNROLL
      for (int t = 0; t < kPhases * kReach; ++t) {
        taps[m][t] = images.tap(m, (phase ^ t / kReach) + t % kReach * up);
      }
    }
    const int out_rows = static_cast<int>(y.out);
    int row = static_cast<int>(place.strip) * strip_rows - lead;
    int iy = ((row + kBehind) * down - y.pad) / up;
    const int end = row + strip_rows < out_rows ? row + strip_rows : out_rows;
    const int64_t pitch = images.channels_last ? images.channels : 1;
    int64_t from = images.offset(place.plane, place.channel * N, iy, ix, y.in, x.in);
    int64_t to = images.offset(place.plane, place.channel * N, row, column, y.out, x.out);
    A sums[kStep + kCarry][N] = {};
    add_rows<kInputs - kBefore>(from - kInputs * pitch * x.in, pitch, ix, iy - kInputs, phase, taps,
                                sums);
    while (row < end) {
      REALNESS_UNROLL
      for (int s = 0; s < kStep + kCarry; ++s) {
        REALNESS_UNROLL
        for (int n = 0; n < N; ++n) sums[s][n] = s < kCarry ? sums[s + kStep][n] : A(0);
      }
      add_rows<0>(from, pitch, ix, iy, phase, taps, sums);
      REALNESS_UNROLL
      for (int s = 0; s < kStep; ++s, ++row, to += pitch * x.out) {
        if (row < 0 || row >= end) continue;
        Vector<T, N> result;
        REALNESS_UNROLL
        for (int n = 0; n < N; ++n) result.lane[n] = static_cast<T>(sums[s][n]);
        store(images.out + to, result);
      }
      from += kInputs * pitch * x.in;
      iy += kInputs;
    }
  }

  // Adds the input rows iy + first, ..., iy + kInputs - 1; `from` is the place of row iy.
  template <int first>
  REALNESS_DEVICE void add_rows(int64_t from, int64_t pitch, int ix, int iy, int phase,
                                const A (&taps)[kTaps][kPhases * kReach],
                                A (&sums)[kStep + kCarry][N]) const {
    const int in_rows = static_cast<int>(images.y.in), in_columns = static_cast<int>(images.x.in);
    from += first * pitch * in_columns;
    REALNESS_UNROLL
    for (int j = first; j < kInputs; ++j, from += pitch * in_columns) {
      const bool inside = iy + j >= 0 && iy + j < in_rows;
      if constexpr (along) {
        A window[kWindow];
        load_run(images.in, from, count, inside, window);
        if (ix < 0 || ix + kWindow > in_columns) {
          REALNESS_UNROLL
          for (int t = 0; t < kWindow; ++t) {
            window[t] = ix + t >= 0 && ix + t < in_columns ? window[t] : A(0);
          }
        }
        add_window(j, taps, window, phase, sums);
      } else {
        REALNESS_UNROLL
        for (int t = 0; t < kReach; ++t) {
          A pixel[N];
          load_lanes(images.in + from + t * pitch,
                     inside && ix + t >= 0 && ix + t < in_columns, pixel);
          for_outputs(j, [&](int s, int m) {
            REALNESS_UNROLL
            for (int n = 0; n < N; ++n) sums[s][n] += taps[m][t] * pixel[n];
          });
        }
      }
    }
  }

  // Calls visit(s, m) for every output row s that input row j reaches, by tap m.
  template <class Visit>
  REALNESS_DEVICE static void for_outputs(int j, Visit visit) {
    REALNESS_UNROLL
    for (int s = 0; s < kStep + kCarry; ++s) {
      const int m = j * up - (s - kBehind) * down;
      if (m >= 0 && m < kTaps) visit(s, m);
    }
  }

  // Output n reads from window[n * down] on or, upsampled, from window[n / 2] on; an odd n starts
  // one later if an even one starts on an input, which is phase 0.
  REALNESS_DEVICE static void add_window(int j, const A (&taps)[kTaps][kPhases * kReach],
                                         const A (&window)[kWindow], int phase,
                                         A (&sums)[kStep + kCarry][N]) {
    A odd[kWindow];
    REALNESS_UNROLL
    for (int t = 0; up == 2 && t + 1 < kWindow; ++t) odd[t] = phase ? window[t] : window[t + 1];
    for_outputs(j, [&](int s, int m) {
      REALNESS_UNROLL
      for (int n = 0; n < N; ++n) {
        const int q = up == 2 ? n % 2 : 0, start = up == 2 ? n / 2 : n * down;
        REALNESS_UNROLL
        for (int t = 0; t < kReach; ++t) {
          sums[s][n] += taps[m][q * kReach + t] * (q ? odd[start + t] : window[start + t]);
        }
      }
    });
  }
};

// Any filter and any factors, one output vector per thread.
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
