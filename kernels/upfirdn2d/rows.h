// The filter on a CPU where channels are innermost: an output row at a time, in loops over memory that
// compilers vectorise.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "upfirdn2d.cuh"

namespace realness::REALNESS_BACKEND {

// A row of an image. Outputs are taken in steps of up / gcd(up, down), because those meet the same
// taps, down / gcd inputs apart. Part of a row at a time is summed in a buffer that stays in the cache.
template <class T>
struct FilterRow {
  using A = acc_t<T>;
  static constexpr int64_t kBuffer = 2048;  // elements

  Images<T> images;

  void operator()(int64_t row) const {
    const Axis &x = images.x, &y = images.y;
    const int64_t plane = row / y.out, oy = row % y.out;
    const int common = std::gcd(x.up, x.down), step = x.up / common, stride = x.down / common;
    const int64_t channels = images.channels;
    const int64_t most = std::max<int64_t>(1, kBuffer / channels);
    std::vector<A> sums(static_cast<size_t>(std::min(most, x.out) * channels));
    T* out = images.out + images.offset(plane, 0, oy, 0, y.out, x.out);
    for (int64_t phase = 0; phase < std::min<int64_t>(step, x.out); ++phase) {
      const int64_t count = (x.out - phase + step - 1) / step;
      for (int64_t first = 0; first < count; first += most) {
        const int64_t size = std::min(most, count - first), ox = phase + first * step;
        std::fill(sums.begin(), sums.begin() + size * channels, A(0));
        add_rows(plane, oy, ox, size, step, stride, channels, sums.data());
        write(out + ox * channels, size, step, channels, sums.data());
      }
    }
  }

  // What one input row gives to the outputs begin, ..., end - 1 by one tap: output k reads the pixel
  // at `in + k * stride`.
  struct Term {
    A tap;
    const T* in;
    int64_t begin, end;
  };

  // Adds what `size` outputs from (oy, ox) on, in steps, read.
  void add_rows(int64_t plane, int64_t oy, int64_t ox, int64_t size, int step, int stride,
                int64_t channels, A* sums) const {
    const Axis &x = images.x, &y = images.y;
    const int64_t iy = y.first_input(oy), ix = x.first_input(ox);
    const int ky = y.first_tap(oy, iy), kx = x.first_tap(ox, ix);
    for (int j = 0; ky + j * y.up < y.taps; ++j) {
      if (iy + j < 0 || iy + j >= y.in) continue;
      const T* in = images.in + images.offset(plane, 0, iy + j, 0, y.in, x.in);
      Term terms[4];
      int waiting = 0;
      for (int t = 0; kx + t * x.up < x.taps; ++t) {
        const int64_t start = ix + t;
        const int64_t begin = start >= 0 ? 0 : (-start + stride - 1) / stride;
        const int64_t end = std::min(size, start < x.in ? (x.in - 1 - start) / stride + 1 : 0);
        if (begin >= end) continue;
        terms[waiting++] = {images.tap(ky + j * y.up, kx + t * x.up), in + start * channels, begin,
                            end};
        if (waiting < 4) continue;
        add_four(terms, stride, channels, sums);
        waiting = 0;
      }
      for (int i = 0; i < waiting; ++i) {
        add<1>(terms + i, terms[i].begin, terms[i].end, stride, channels, sums);
      }
    }
  }

  // Together where all reach, alone at the image's borders.
  static void add_four(const Term* terms, int stride, int64_t channels, A* sums) {
    int64_t begin = 0, end = INT64_MAX;
    for (int i = 0; i < 4; ++i) {
      begin = std::max(begin, terms[i].begin);
      end = std::min(end, terms[i].end);
    }
    begin = std::min(begin, end);
    for (int i = 0; i < 4; ++i) {
      add<1>(terms + i, terms[i].begin, std::min(begin, terms[i].end), stride, channels, sums);
      add<1>(terms + i, std::max(end, terms[i].begin), terms[i].end, stride, channels, sums);
    }
    add<4>(terms, begin, end, stride, channels, sums);
  }

  template <int number>
  static void add(const Term* terms, int64_t begin, int64_t end, int stride, int64_t channels,
                  A* __restrict sums) {
    A tap[number];
    const T* in[number];
    for (int i = 0; i < number; ++i) {
      tap[i] = terms[i].tap;
      in[i] = terms[i].in + begin * stride * channels;
    }
    sums += begin * channels;
    // Neighbouring outputs read neighbouring pixels: one run, or a run for each output.
    const int64_t runs = stride == 1 ? 1 : end - begin;
    const int64_t size = stride == 1 ? (end - begin) * channels : channels;
    for (int64_t k = 0; k < runs; ++k, sums += channels) {
      add_run<number>(tap, in, size, sums);
      for (int i = 0; i < number; ++i) in[i] += stride * channels;
    }
  }

  template <int number>
  static void add_run(const A (&taps)[number], const T* const (&in)[number], int64_t size,
                      A* __restrict sums) {
    if constexpr (number == 4) {  // written out, because the loop over taps is not unrolled in time
      const A t0 = taps[0], t1 = taps[1], t2 = taps[2], t3 = taps[3];
      const T *__restrict a = in[0], *__restrict b = in[1], *__restrict c = in[2],
              *__restrict d = in[3];
      for (int64_t i = 0; i < size; ++i) {
        sums[i] += (t0 * static_cast<A>(a[i]) + t1 * static_cast<A>(b[i])) +
                   (t2 * static_cast<A>(c[i]) + t3 * static_cast<A>(d[i]));
      }
    } else {
      const A tap = taps[0];
      const T* __restrict a = in[0];
      for (int64_t i = 0; i < size; ++i) sums[i] += tap * static_cast<A>(a[i]);
    }
  }

  static void write(T* __restrict out, int64_t size, int step, int64_t channels,
                    const A* __restrict sums) {
    const int64_t runs = step == 1 ? 1 : size, length = step == 1 ? size * channels : channels;
    for (int64_t k = 0; k < runs; ++k, out += step * channels, sums += channels) {
      for (int64_t i = 0; i < length; ++i) out[i] = static_cast<T>(sums[i]);
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
