// The transposed operator, without atomics: first the gradient of every grid point, then a block
// gathers the gradients of the nodes around a tile of the input, at each of its mirror images, and
// filters them down.
#pragma once

#include "warp.cuh"

namespace realness::REALNESS_BACKEND {

// Adds up the even and the odd one of two neighbouring grid points: point 2j' + odd meets pixel
// j' - i with tap 2i + odd. `from` is the place of pixel j'.
template <class A>
REALNESS_DEVICE void spread(const A* from, int stride, A& to_even, A& to_odd) {
  A even = 0, odd = 0;
  REALNESS_UNROLL
  for (int i = 0; i < kTaps / 2; ++i) {
    even += sym6<A>(2 * i) * from[-i * stride];
    odd += sym6<A>(2 * i + 1) * from[-i * stride];
  }
  to_even = even, to_odd = odd;
}

// grid[b, c, 2 height + 10, 2 width + 10]: what the transposed colours and filter make of the
// gradient. An image that is copied needs none.
template <class T, int K>
struct GridGradient {
  using A = acc_t<T>;
  // Pixels per tile, and those that the tile's grid points meet before it.
  static constexpr int kWidth = TileSize<A>::kWidth, kHeight = TileSize<A>::kHeight;
  static constexpr int kBefore = kTaps / 2 - 1;
  static constexpr int kPitch = kWidth + kBefore;
  static constexpr int kPixels = K * (kHeight + kBefore) * kPitch, kRows = K * 2 * kHeight * kPitch;
  static constexpr int kScratch = Tile<A, K>::doubles(kPixels + kRows);
  Pixels<T, K> pixels;
  Tiling tiling;  // of height + 5 by width + 5 pairs of grid points
  A* grid;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t i, Group group) const {
    const Place place = tiling.locate(i, kWidth, kHeight, K);
    const Affine affine = pixels.affine(place.image);
    if (!affine.finite || affine.copies) return;
    A* const staged = reinterpret_cast<A*>(group.scratch);  // [K, kHeight + kBefore, kPitch]
    A* const rows = staged + kPixels;                       // [K, 2 kHeight, kPitch]
    const int columns = place.width + kBefore;
    for_places(group, place.height + kBefore, columns, [&](int row, int column) {
      A values[K];
      load(place, row - kBefore, column - kBefore, values);
      REALNESS_UNROLL
      for (int c = 0; c < K; ++c) {
        staged[(c * (kHeight + kBefore) + row) * kPitch + column] = values[c];
      }
    });
    group.sync();
    for_places(group, K * place.height, columns, [&](int line, int column) {
      const int c = K == 1 ? 0 : line / place.height, row = line - c * place.height;
      A* to = rows + (c * kHeight + row) * 2 * kPitch + column;
      spread(staged + (c * (kHeight + kBefore) + row + kBefore) * kPitch + column, kPitch, to[0],
             to[kPitch]);
    });
    group.sync();
    const int64_t pitch = 2 * tiling.width, plane = pitch * 2 * tiling.height;
    const int64_t first = place.image * pixels.layout.channels + place.channel;
    A* const target = grid + first * plane + 2 * place.row * pitch + 2 * place.column;
    for_places(group, K * 2 * place.height, place.width, [&](int line, int column) {
      const int c = K == 1 ? 0 : line / (2 * place.height), row = line - c * 2 * place.height;
      A* to = target + c * plane + row * pitch + 2 * column;
      spread(rows + (c * 2 * kHeight + row) * kPitch + column + kBefore, 1, to[0], to[1]);
    });
  }

  // The gradient of a pixel before its colours were mixed; 0 outside the image.
  REALNESS_DEVICE void load(const Place& place, int row, int column, A (&values)[K]) const {
    row += place.row, column += place.column;
    if (row >= 0 && row < pixels.layout.height && column >= 0 && column < pixels.layout.width) {
      pixels.read(pixels.layout.first(place.image, place.channel), row, column, values);
      if constexpr (K == 3) {
        if (pixels.color) mix_transposed(pixels.color + 12 * place.image, values);
      }
    } else {
      REALNESS_UNROLL
      for (int c = 0; c < K; ++c) values[c] = 0;
    }
  }
};

// Pixels from `low` to `high` of a row that goes on by reflection.
struct Stretch {
  int low, high;
  // Those that reach a node less than `reach` and one away from `middle`.
  REALNESS_DEVICE static Stretch around(double middle, double reach) {
    return {floor_to_int(0.5 * (middle - reach - kTaps)), floor_to_int(0.5 * (middle + reach + 1))};
  }
};

// One of the mirror images of an interval of pixels, of a row of `size`, cut to a stretch. Number 0
// is the interval, odd numbers are reversed. A reversed one leaves out the row's two ends, which
// its neighbours have.
struct MirrorImage {
  int size, number, first, length;

  REALNESS_DEVICE MirrorImage(int number, int begin, int count, int size, Stretch stretch)
      : size(size), number(number) {
    const int one = place(begin), other = place(begin + count - 1);
    first = least(one, other);
    const int last = least(first + count - 1, stretch.high);
    first = -least(-first, -stretch.low);
    length = last - first + 1;
  }
  REALNESS_DEVICE static int step(int size) { return size > 1 ? size - 1 : 1; }
  REALNESS_DEVICE bool reversed() const { return size > 1 && number & 1; }
  REALNESS_DEVICE int place(int pixel) const {
    return reversed() ? (number + 1) * step(size) - pixel : number * step(size) + pixel;
  }
  REALNESS_DEVICE bool has(int pixel) const {
    const int offset = place(pixel) - first;
    return offset >= 0 && offset < length && !(reversed() && (pixel == 0 || pixel == size - 1));
  }
  // The number of the mirror image of the row that has a place.
  REALNESS_DEVICE static int owner(int place, int size) {
    int number = place / step(size);
    number -= number * step(size) > place;
    return number - (size > 1 && number & 1 && number * step(size) == place);
  }
};

// The grid points that lie less than one node away from the nodes of a rectangle.
template <class A>
struct Window {
  A xx, xy, yx, yy, x0, y0;  // of the grid points, from the first node
  int column, row;           // the grid point from which the others are counted
  int columns, rows;         // of the grid
  // A node at (x, y) meets rows around row_x x + row_y y, and so for columns.
  A row_x, row_y, rows_around, column_x, column_y, columns_around;
  A per_x, per_y;  // columns per node along a row of the grid, bounded
  bool empty;

  REALNESS_DEVICE Window(const Affine& affine, int node_x, int node_y, int width, int height,
                         int columns, int rows)
      : columns(columns), rows(rows) {
    const double last_column = columns - 1, last_row = rows - 1;
    double mid_column = 0.5 * last_column, mid_row = 0.5 * last_row;
    // Half of the rectangle, with the nodes' surroundings, and its centre.
    const double half_x = 0.5 * (width + 1), half_y = 0.5 * (height + 1);
    const double mid_x = node_x + half_x - 1, mid_y = node_y + half_y - 1;
    empty = misses(affine.x(mid_column, mid_row) - mid_x, half_x, mid_column * affine.xx,
                   mid_row * affine.xy) ||
            misses(affine.y(mid_column, mid_row) - mid_y, half_y, mid_column * affine.yx,
                   mid_row * affine.yy);
    row_x = row_y = 0, rows_around = static_cast<A>(rows);
    column_x = column_y = 0, columns_around = static_cast<A>(columns);
    const double determinant = affine.xx * affine.yy - affine.xy * affine.yx;
    if (abs_(determinant) > 1e-9) {  // otherwise all of them
      const double of_xx = affine.yy / determinant, of_xy = -affine.xy / determinant;
      const double of_yx = -affine.yx / determinant, of_yy = affine.xx / determinant;
      const double to_x = mid_x - affine.x0, to_y = mid_y - affine.y0;
      const double found_column = of_xx * to_x + of_xy * to_y;
      const double found_row = of_yx * to_x + of_yy * to_y;
      empty |= misses(found_column - mid_column, mid_column, of_xx * half_x, of_xy * half_y) ||
               misses(found_row - mid_row, mid_row, of_yx * half_x, of_yy * half_y);
      mid_column = found_column < 0 ? 0 : found_column < last_column ? found_column : last_column;
      mid_row = found_row < 0 ? 0 : found_row < last_row ? found_row : last_row;
      row_x = static_cast<A>(of_yx), row_y = static_cast<A>(of_yy);
      rows_around = widened(abs_(row_x) + abs_(row_y));
      column_x = static_cast<A>(of_xx), column_y = static_cast<A>(of_xy);
      columns_around = widened(abs_(column_x) + abs_(column_y));
    }
    column = static_cast<int>(mid_column), row = static_cast<int>(mid_row);
    xx = static_cast<A>(affine.xx), xy = static_cast<A>(affine.xy);
    yx = static_cast<A>(affine.yx), yy = static_cast<A>(affine.yy);
    x0 = static_cast<A>(affine.x(column, row) - node_x);
    y0 = static_cast<A>(affine.y(column, row) - node_y);
    per_x = reciprocal(xx), per_y = reciprocal(yx);
  }

  // Calls visit(column, row, weight) for the grid points around a node of the rectangle.
  template <class Visit>
  REALNESS_DEVICE void visit(int node_x, int node_y, const Visit& visit) const {
    const A x = node_x - x0, y = node_y - y0;
    const A least_row = -row, last_row = rows - 1 - row;
    const A least_column = -column, last_column = columns - 1 - column;
    A from = least_row, to = last_row, low = least_column, high = last_column;
    cut(row_x * x + row_y * y, rows_around, from, to);
    cut(column_x * x + column_y * y, columns_around, low, high);
    if (!(low <= high && from <= to)) return;
    const int end = floor_to_int(to);
    for (int r = -floor_to_int(-from); r <= end; ++r) {
      const A to_x = x - xy * r, to_y = y - yy * r;
      A first = low, last = high;
      cut(per_x * to_x, widened(abs_(per_x)), first, last);
      cut(per_y * to_y, widened(abs_(per_y)), first, last);
      if (!(first <= last)) continue;
      const int stop = floor_to_int(last);
      for (int k = -floor_to_int(-first); k <= stop; ++k) {
        const A along = A(1) - abs_(to_x - xx * k), across = A(1) - abs_(to_y - yx * k);
        if (along > 0 && across > 0) visit(column + k, row + r, along * across);
      }
    }
  }

 private:
  // Whether two intervals around centres `apart` do not meet; b1 + b2 is the half of the second.
  REALNESS_DEVICE static bool misses(double apart, double a, double b1, double b2) {
    return abs_(apart) > a + abs_(b1) + abs_(b2);
  }
  // A step below 1e-6 is taken for that: it moves nothing within a row.
  REALNESS_DEVICE static A reciprocal(A x) {
    constexpr A limit = static_cast<A>(1e6);
    return abs_(x) * limit > A(1) ? A(1) / x : limit;
  }
  // For rounding: what is met in addition has no weight.
  REALNESS_DEVICE static A widened(A around) { return around * static_cast<A>(1.001); }
  // Cuts the interval from `low` to `high` to what is less than `around` from `middle`.
  REALNESS_DEVICE static void cut(A middle, A around, A& low, A& high) {
    low = middle - around > low ? middle - around : low;
    high = middle + around < high ? middle + around : high;
  }
};

template <class T, int K>
struct WarpBackward {
  using A = acc_t<T>;
  using OneTile = Tile<A, K>;
  static constexpr int kBefore = OneTile::kStage + OneTile::kHalf;
  static constexpr int kScratch = OneTile::doubles(kBefore + OneTile::kSums);
  static constexpr int kBlocks = sizeof(A) == 4 ? 3 : 2;
  Pixels<T, K> pixels;  // from the gradient of the result to that of the images
  Tiling tiling;
  const A* grid;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t i, Group group) const {
    const Place place = tiling.locate(i, OneTile::kWidth, OneTile::kHeight, K);
    const Affine affine = pixels.affine(place.image);
    const int64_t plane = pixels.layout.first(place.image, place.channel);
    const bool filters = affine.finite && !affine.copies;
    A* const sums = reinterpret_cast<A*>(group.scratch) + kBefore;  // [K, height, width]
    if (filters) gather(group, place, affine, sums);
    for_places(group, place.height, place.width, [&](int row, int column) {
      A values[K];
      if (filters) {
        const A* own = sums + row * place.width + column;
        REALNESS_UNROLL
        for (int c = 0; c < K; ++c) values[c] = 4 * own[c * OneTile::kSums / K];
      } else {
        copy(affine, place.image, plane, place.row + row, place.column + column, values);
      }
      pixels.write(plane, place.row + row, place.column + column, values);
    });
  }

  // The sums over the mirror images of the tile; a lane adds up the pixels that it writes.
  template <class Group>
  REALNESS_DEVICE void gather(const Group& group, const Place& place, const Affine& affine,
                              A* sums) const {
    const int height = pixels.layout.height, width = pixels.layout.width;
    const int rows = 2 * height + kMargin, columns = 2 * width + kMargin;
    const int64_t plane = static_cast<int64_t>(rows) * columns;
    const A* from = grid + (place.image * pixels.layout.channels + place.channel) * plane;
    for_places(group, place.height, place.width, [&](int row, int column) {
      REALNESS_UNROLL
      for (int c = 0; c < K; ++c) sums[c * OneTile::kSums / K + row * place.width + column] = 0;
    });
    const double mid_x = affine.x(0.5 * (columns - 1), 0.5 * (rows - 1));
    const double mid_y = affine.y(0.5 * (columns - 1), 0.5 * (rows - 1));
    const double reach_x = 0.5 * (abs_(affine.xx) * (columns - 1) + abs_(affine.xy) * (rows - 1));
    const double reach_y = 0.5 * (abs_(affine.yx) * (columns - 1) + abs_(affine.yy) * (rows - 1));
    const Stretch across = Stretch::around(mid_y, reach_y);
    const Stretch along = Stretch::around(mid_x, reach_x);
    const int last_m = MirrorImage::owner(across.high, height);
    const int last_n = MirrorImage::owner(along.high, width);
    for (int m = MirrorImage::owner(across.low, height); m <= last_m; ++m) {
      const MirrorImage y(m, place.row, place.height, height, across);
      for (int n = MirrorImage::owner(along.low, width); n <= last_n; ++n) {
        const MirrorImage x(n, place.column, place.width, width, along);
        if (x.length <= 0 || y.length <= 0) continue;
        const OneTile tile(group.scratch, x.length, y.length);
        const Window<A> window(affine, 2 * x.first, 2 * y.first, 2 * x.length + kMargin,
                               2 * y.length + kMargin, columns, rows);
        if (window.empty) continue;
        tile.fill(group, [&](int node_x, int node_y, const auto& put) {
          A values[K] = {};
          window.visit(node_x, node_y, [&](int column, int row, A weight) {
            const A* point = from + static_cast<int64_t>(row) * columns + column;
            REALNESS_UNROLL
            for (int c = 0; c < K; ++c) values[c] += weight * point[c * plane];
          });
          REALNESS_UNROLL
          for (int c = 0; c < K; ++c) put(c, values[c]);
        });
        for_places(group, place.height, place.width, [&](int row, int column) {
          if (!y.has(place.row + row) || !x.has(place.column + column)) return;
          A values[K];
          tile.pixel(x.place(place.column + column) - x.first, y.place(place.row + row) - y.first,
                     values);
          A* own = sums + row * place.width + column;
          REALNESS_UNROLL
          for (int c = 0; c < K; ++c) own[c * OneTile::kSums / K] += values[c];
        });
      }
    }
  }

  // The sum over the output pixels that are copies of an input pixel.
  REALNESS_DEVICE void copy(const Affine& affine, int64_t image, int64_t plane, int row, int column,
                            A (&values)[K]) const {
    REALNESS_UNROLL
    for (int c = 0; c < K; ++c) values[c] = affine.finite ? A(0) : static_cast<A>(NAN);
    if (!affine.finite) return;
    const int height = pixels.layout.height, width = pixels.layout.width;
    const int xx = static_cast<int>(affine.xx), xy = static_cast<int>(affine.xy);
    const int yx = static_cast<int>(affine.yx), yy = static_cast<int>(affine.yy);
    // Places of the first and the last output pixel in the extended input.
    const int to_x = affine.copy_x + xx * (width - 1) + xy * (height - 1);
    const int to_y = affine.copy_y + yx * (width - 1) + yy * (height - 1);
    const Stretch across{least(affine.copy_y, to_y), -least(-affine.copy_y, -to_y)};
    const Stretch along{least(affine.copy_x, to_x), -least(-affine.copy_x, -to_x)};
    const int last_m = MirrorImage::owner(across.high, height);
    const int last_n = MirrorImage::owner(along.high, width);
    for (int m = MirrorImage::owner(across.low, height); m <= last_m; ++m) {
      const MirrorImage y(m, row, 1, height, across);
      if (!y.has(row)) continue;
      for (int n = MirrorImage::owner(along.low, width); n <= last_n; ++n) {
        const MirrorImage x(n, column, 1, width, along);
        if (!x.has(column)) continue;
        const int dx = x.first - affine.copy_x, dy = y.first - affine.copy_y;
        // The inverse of the matrix is its transpose.
        A more[K];
        pixels.read(plane, xy * dx + yy * dy, xx * dx + yx * dy, more);
        if constexpr (K == 3) {
          if (pixels.color) mix_transposed(pixels.color + 12 * image, more);
        }
        REALNESS_UNROLL
        for (int c = 0; c < K; ++c) values[c] += more[c];
      }
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
