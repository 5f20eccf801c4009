// The forward pass: a block computes the grid points that a tile of the output needs, row by row,
// and filters them down.
#pragma once

#include <cstring>
#include <type_traits>

#include "geometry.cuh"

namespace realness::REALNESS_BACKEND {

// Sizes of a tile, and how many rows of its grid are staged at a time. The tests' emulator has
// small tiles, so that small images have several.
template <class A>
struct TileSize {
#if defined(REALNESS_HOST)
  static constexpr int kWidth = 64, kHeight = 64, kRows = 4;
#elif defined(REALNESS_EMULATE)
  static constexpr int kWidth = 16, kHeight = 8, kRows = 4;
#else  // so that a block's memory stays within 48 KiB
  static constexpr int kWidth = 32, kHeight = sizeof(A) == 4 ? 32 : 8, kRows = 8;
#endif
};
// Seven neighbouring values; on the CPU a vector, whose eighth lane has no weight.
template <class A>
struct Seven {
#if defined(REALNESS_HOST)
  static constexpr int kLanes = 8, kVector = 16 / sizeof(A), kParts = kLanes / kVector;
  typedef A Part __attribute__((vector_size(16)));
  Part parts[kParts] = {};
  Seven() = default;
  template <class F>
  explicit Seven(const F& value) {
    for (int p = 0; p < kParts; ++p) {
      if constexpr (kVector == 4) {
        parts[p] = Part{value(4 * p), value(4 * p + 1), value(4 * p + 2), value(4 * p + 3)};
      } else {
        parts[p] = Part{value(2 * p), value(2 * p + 1)};
      }
    }
  }
  template <class T>
  explicit Seven(const T* neighbours) : Seven([=](int n) { return static_cast<A>(neighbours[n]); }) {}
  explicit Seven(const A* neighbours) { memcpy(parts, neighbours, sizeof parts); }
  A operator[](int n) const { return parts[n / kVector][n % kVector]; }
  void add(A weight, const Seven& more) {
    for (int p = 0; p < kParts; ++p) parts[p] += weight * more.parts[p];
  }
  A dot(const Seven& weights) const {
    Part all{};
    for (int p = 0; p < kParts; ++p) all += parts[p] * weights.parts[p];
    A sum = 0;
    for (int n = 0; n < kVector; ++n) sum += all[n];
    return sum;
  }
#else
  static constexpr int kLanes = 7;
  A values[kLanes] = {};
  template <class F>
  REALNESS_DEVICE explicit Seven(const F& value) {
    REALNESS_UNROLL
    for (int n = 0; n < kLanes; ++n) values[n] = value(n);
  }
  template <class T>
  REALNESS_DEVICE explicit Seven(const T* neighbours)
      : Seven([=](int n) { return static_cast<A>(neighbours[n]); }) {}
  Seven() = default;
  REALNESS_DEVICE A operator[](int n) const { return values[n]; }
  REALNESS_DEVICE void add(A weight, const Seven& more) {
    REALNESS_UNROLL
    for (int n = 0; n < kLanes; ++n) values[n] += weight * more.values[n];
  }
  REALNESS_DEVICE A dot(const Seven& weights) const {
    A sum = 0;
    REALNESS_UNROLL
    for (int n = 0; n < kLanes; ++n) sum += values[n] * weights.values[n];
    return sum;
  }
#endif
};

// Calls f(row, column) for all places of a rectangle, divided among the lanes.
template <class Group, class F>
REALNESS_DEVICE void for_places(const Group& group, int rows, int columns, const F& f) {
#if defined(REALNESS_HOST)
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) f(row, column);
  }
#else
  for (int e = group.lane(); e < rows * columns; e += group.size()) {
    const int row = e / columns;
    f(row, e - row * columns);
  }
#endif
}

// Filters the samples of a doubled grid down to a tile of pixels, K channels at once.
template <class A, int K>
struct Tile : TileSize<A> {
  using TileSize<A>::kWidth, TileSize<A>::kHeight, TileSize<A>::kRows;
  static constexpr int kPairs = kWidth + kMargin / 2, kGridHeight = 2 * kHeight + kMargin;
  static constexpr int kStage = K * kRows * 2 * kPairs, kHalf = K * kGridHeight * kWidth;
  static constexpr int kSums = K * kHeight * kWidth;
  static constexpr int doubles(int values) {
    return static_cast<int>((values * sizeof(A) + sizeof(double) - 1) / sizeof(double));
  }

  A* stage;  // [K, kRows, 2, kPairs]: a row's even columns, then its odd ones
  A* half;   // [K, kGridHeight, kWidth], filtered along the rows
  int width, height;

  REALNESS_DEVICE Tile(double* scratch, int width, int height)
      : stage(reinterpret_cast<A*>(scratch)), half(stage + kStage), width(width), height(height) {}

  // point(column, row, put) computes a sample and calls put(c, value). All lanes see the result.
  template <class Group, class Point>
  REALNESS_DEVICE void fill(const Group& group, const Point& point) const {
    const int rows = 2 * height + kMargin;
    for (int first = 0; first < rows; first += kRows) {
      const int count = least(kRows, rows - first);
      group.sync();  // the stage may still be read
      for_places(group, count, 2 * width + kMargin, [&](int row, int column) {
        A* to = stage + (2 * row + (column & 1)) * kPairs + (column >> 1);
        point(column, first + row, [=](int c, A value) { to[c * kRows * 2 * kPairs] = value; });
      });
      group.sync();
      for_places(group, K * count, width, [&](int line, int column) {
        const int c = K == 1 ? 0 : line / count, row = line - c * count;
        const A* even = stage + (c * kRows + row) * 2 * kPairs + column;
        const A* odd = even + kPairs;
        A sum = 0;
        REALNESS_UNROLL
        for (int i = 0; i < kTaps / 2; ++i) {
          sum += sym6<A>(2 * i) * even[i] + sym6<A>(2 * i + 1) * odd[i];
        }
        half[(c * kGridHeight + first + row) * kWidth + column] = sum;
      });
    }
    group.sync();
  }

  REALNESS_DEVICE void pixel(int column, int row, A (&values)[K]) const {
    REALNESS_UNROLL
    for (int c = 0; c < K; ++c) {
      const A* from = half + (c * kGridHeight + 2 * row) * kWidth + column;
      values[c] = 0;
      REALNESS_UNROLL
      for (int t = 0; t < kTaps; ++t) values[c] += sym6<A>(t) * from[t * kWidth];
    }
  }
};

// What a sample between two nodes reads along an axis: 7 input pixels from `first` on. Node m meets
// pixel n with tap m - 2n.
template <class A>
struct Reach {
  static constexpr int kPixels = kTaps / 2 + 1;
  int first;
  Seven<A> weights;

  REALNESS_DEVICE Reach(int node, A beyond)
      : first(((node + 1) >> 1) - kTaps / 2), weights(weights_of(node & 1, beyond)) {}

  // Without a branch, since half of the nodes are odd.
  REALNESS_DEVICE static Seven<A> weights_of(int parity, A beyond) {
    const A odd = static_cast<A>(2 * parity), even = 2 - odd;
    const A before = odd * (1 - beyond), middle = odd * beyond + even * (1 - beyond);
    const A after = even * beyond;
    Seven<A> weights;
    weights.add(before, Seven<A>([](int i) { return sym6<A>(11 - 2 * i); }));
    weights.add(middle, Seven<A>([](int i) { return sym6<A>(12 - 2 * i); }));
    weights.add(after, Seven<A>([](int i) { return sym6<A>(13 - 2 * i); }));
    return weights;
  }
};

template <class T, int K>
struct WarpForward {
  using A = acc_t<T>;
  using OneTile = Tile<A, K>;
  static constexpr int kScratch = OneTile::doubles(OneTile::kStage + OneTile::kHalf);
  static constexpr int kBlocks = sizeof(A) == 4 ? 3 : 2;
  Pixels<T, K> pixels;
  Tiling tiling;
  bool linear;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t i, Group group) const {
    const Place place = tiling.locate(i, OneTile::kWidth, OneTile::kHeight, K);
    const Affine affine = pixels.affine(place.image);
    const int64_t plane = pixels.layout.first(place.image, place.channel);
    const OneTile tile(group.scratch, place.width, place.height);
    const bool filters = affine.finite && !affine.copies;
    if (filters) fill(group, tile, place, affine, plane);
    for_places(group, place.height, place.width, [&](int row, int column) {
      A values[K];
      if (filters) {
        tile.pixel(column, row, values);
      } else {
        copy(affine, plane, place.row + row, place.column + column, values);
      }
      if constexpr (K == 3) {
        if (pixels.color) mix(pixels.color + 12 * place.image, linear, values);
      }
      pixels.write(plane, place.row + row, place.column + column, values);
    });
  }

  REALNESS_DEVICE void copy(const Affine& affine, int64_t plane, int row, int column,
                            A (&values)[K]) const {
    if (!affine.finite) {
      REALNESS_UNROLL
      for (int c = 0; c < K; ++c) values[c] = static_cast<A>(NAN);
      return;
    }
    const int x = static_cast<int>(affine.xx) * column + static_cast<int>(affine.xy) * row;
    const int y = static_cast<int>(affine.yx) * column + static_cast<int>(affine.yy) * row;
    pixels.read(plane, Reflection(y + affine.copy_y, pixels.layout.height).pixel(),
                Reflection(x + affine.copy_x, pixels.layout.width).pixel(), values);
  }

  // Positions count from the middle of the tile's grid, so that float32 resolves them finely.
  template <class Group>
  REALNESS_DEVICE void fill(const Group& group, const OneTile& tile, const Place& place,
                            const Affine& affine, int64_t plane) const {
    const int mid_column = place.width + kMargin / 2, mid_row = place.height + kMargin / 2;
    const double x = affine.x(2 * place.column + mid_column, 2 * place.row + mid_row);
    const double y = affine.y(2 * place.column + mid_column, 2 * place.row + mid_row);
    const int base_x = floor_to_int(x), base_y = floor_to_int(y);
    const A x0 = static_cast<A>(x - base_x), y0 = static_cast<A>(y - base_y);
    const A xx = static_cast<A>(affine.xx), xy = static_cast<A>(affine.xy);
    const A yx = static_cast<A>(affine.yx), yy = static_cast<A>(affine.yy);
    const T* data = pixels.in + plane;
    tile.fill(group, [&](int column, int row, const auto& put) {
      const int right = column - mid_column, below = row - mid_row;
      const A dx = xx * right + (xy * below + x0), dy = yx * right + (yy * below + y0);
      const int node_x = floor_to_int(dx), node_y = floor_to_int(dy);
      const Reach<A> along(base_x + node_x, dx - node_x), across(base_y + node_y, dy - node_y);
      const bool plain = pixels.layout.column_stride() == 1 && along.first >= 0 &&
                         along.first + Seven<A>::kLanes <= pixels.layout.width && across.first >= 0 &&
                         across.first + Reach<A>::kPixels <= pixels.layout.height;
      plain ? sample<true>(data, along, across, put) : sample<false>(data, along, across, put);
    });
  }

  // Adds up the rows in every column first, then the columns. `plain`: the pixels lie within the
  // image, and those of a row are neighbours in memory.
  template <bool plain, class Put>
  REALNESS_DEVICE void sample(const T* data, const Reach<A>& along, const Reach<A>& across,
                              const Put& put) const {
    constexpr int kRows = Reach<A>::kPixels, kColumns = Seven<A>::kLanes;
    const int64_t column_stride = pixels.layout.column_stride();
    const int64_t row_stride = column_stride * pixels.layout.width;
    const T* first = data + across.first * row_stride + along.first * column_stride;
    int rows[kRows], columns[kColumns];
    if constexpr (!plain) {
      first = data;
      Reflection row(across.first, pixels.layout.height);
      Reflection column(along.first, pixels.layout.width);
      REALNESS_UNROLL
      for (int r = 0; r < kRows; ++r, row.next()) rows[r] = row.pixel();
      REALNESS_UNROLL
      for (int n = 0; n < kColumns; ++n, column.next()) {
        columns[n] = column.pixel() * static_cast<int>(column_stride);
      }
    }
    REALNESS_UNROLL
    for (int c = 0; c < K; ++c, first += pixels.layout.channel_stride()) {
      Seven<A> sums;
      REALNESS_UNROLL
      for (int r = 0; r < kRows; ++r) {
        if constexpr (plain) {
          sums.add(across.weights[r], Seven<A>(first + r * row_stride));
        } else {
          const T* row = first + rows[r] * row_stride;
          sums.add(across.weights[r],
                   Seven<A>([&](int n) { return static_cast<A>(row[columns[n]]); }));
        }
      }
      put(c, sums.dot(along.weights));
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
