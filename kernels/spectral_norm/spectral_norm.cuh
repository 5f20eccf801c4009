// Spectral normalisation of many layers per launch: their pointers are a kernel argument.
#pragma once

#include "../csrc/group.cuh"

namespace realness::REALNESS_BACKEND {

constexpr int kMaxLayers = 32;     // per launch; CUDA allows 4 KiB of arguments
constexpr int64_t kTileColumns = 32;
// Loads of a thread before its first store; a CPU's compiler vectorises the plain loop.
#if defined(REALNESS_HOST)
constexpr int kAtOnce = 1;
#else
constexpr int kAtOnce = 8;
#endif
// One block goes through all of a layer's vectors. The tests' emulator is slow with many threads.
#if defined(REALNESS_EMULATE)
constexpr int kNormalizeThreads = 256;
#else
constexpr int kNormalizeThreads = 1024;
#endif

template <class T>
struct Layer {
  const T* weight;  // [rows, columns]
  const T* grad;    // of the scaled weight
  T* out;
  acc_t<T>*u, *v;   // [rows], [columns]
  int64_t rows, columns;
};

// Layers and the number of the first work item of each; an item is a row, a tile or a layer.
template <class T>
struct Layers {
  Layer<T> layer[kMaxLayers];
  int64_t first_item[kMaxLayers + 1];

  REALNESS_DEVICE int find(int64_t item) const {
    int l = 0;
    while (item >= first_item[l + 1]) ++l;
    return l;
  }
};

// v = W^T u, not normalised yet; an item is a tile of columns.
template <class T>
struct TransposedProduct {
  Layers<T> layers;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t item, Group group) const {
    using A = acc_t<T>;
    const int l = layers.find(item);
    const Layer<T>& layer = layers.layer[l];
    const int64_t first = (item - layers.first_item[l]) * kTileColumns;
    const auto warp = group.warp();
    for (int64_t c = first + warp.lane(); c < first + kTileColumns; c += warp.size()) {
      typename Group::template Sum<A> total = 0;
      const int64_t rows = c < layer.columns ? layer.rows : 0;
      REALNESS_UNROLL_BY(8)  // loads in flight
      for (int64_t r = group.warp_index(); r < rows; r += group.num_warps()) {
        total += static_cast<A>(layer.weight[r * layer.columns + c]) * layer.u[r];
      }
      total = group.sum_over_warps(total);
      if (group.warp_index() == 0 && c < layer.columns) layer.v[c] = static_cast<A>(total);
    }
  }
};

// u = W v, not normalised yet; an item is a row.
template <class T>
struct Product {
  Layers<T> layers;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t item, Group group) const {
    using A = acc_t<T>;
    const int l = layers.find(item);
    const Layer<T>& layer = layers.layer[l];
    const int64_t r = item - layers.first_item[l];
    typename Group::template Sum<A> total = 0;
    REALNESS_UNROLL_BY(8)  // loads in flight
    for (int64_t c = group.lane(); c < layer.columns; c += group.size()) {
      total += static_cast<A>(layer.weight[r * layer.columns + c]) * layer.v[c];
    }
    total = group.sum(total);
    if (group.lane() == 0) layer.u[r] = static_cast<A>(total);
  }
};

// Normalises v = W^T u and u = W W^T u; an item is a layer. u was made from the long v, so that
// its own norm is divided by that of v first.
template <class T>
struct Normalize {
  Layers<T> layers;
  acc_t<T> eps;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t item, Group group) const {
    using A = acc_t<T>;
    const Layer<T>& layer = layers.layer[item];
    const A length_v = at_least_eps(norm(group, layer.v, layer.columns));
    const A length_u = at_least_eps(norm(group, layer.u, layer.rows) / length_v);
    divide(group, layer.v, layer.columns, length_v);
    divide(group, layer.u, layer.rows, length_v, length_u);
  }

  REALNESS_DEVICE acc_t<T> at_least_eps(acc_t<T> x) const { return x < eps ? eps : x; }

  template <class Group>
  REALNESS_DEVICE static acc_t<T> norm(Group group, const acc_t<T>* x, int64_t size) {
    typename Group::template Sum<acc_t<T>> total = 0;
    REALNESS_UNROLL_BY(8)  // loads in flight
    for (int64_t i = group.lane(); i < size; i += group.size()) total += x[i] * x[i];
    return static_cast<acc_t<T>>(sqrt_(group.sum(total)));
  }

  // x = x / first / second, with all loads of some elements before their divisions.
  template <class Group>
  REALNESS_DEVICE static void divide(Group group, acc_t<T>* x, int64_t size, acc_t<T> first,
                                     acc_t<T> second = 1) {
    for (int64_t i = group.lane(); i < size; i += kAtOnce * group.size()) {
      acc_t<T> values[kAtOnce];
      REALNESS_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t place = i + k * group.size();
        values[k] = place < size ? x[place] : acc_t<T>(0);
      }
      REALNESS_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t place = i + k * group.size();
        if (place < size) x[place] = values[k] / first / second;
      }
    }
  }
};

// Every row's share of u^T W v, or of the inner product of W and its scaled version's gradient.
template <class T, bool backward>
struct RowShare {
  Layers<T> layers;
  acc_t<T>* share;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t item, Group group) const {
    using A = acc_t<T>;
    const int l = layers.find(item);
    const Layer<T>& layer = layers.layer[l];
    const int64_t r = item - layers.first_item[l];
    typename Group::template Sum<A> total = 0;
    REALNESS_UNROLL_BY(8)  // loads in flight
    for (int64_t c = group.lane(); c < layer.columns; c += group.size()) {
      const int64_t i = r * layer.columns + c;
      const A factor = backward ? static_cast<A>(layer.grad[i]) : layer.v[c];
      total += static_cast<A>(layer.weight[i]) * factor;
    }
    total = group.sum(total);
    if (group.lane() == 0) share[item] = static_cast<A>(total) * (backward ? A(1) : layer.u[r]);
  }
};

// The layers' sums over their rows' shares; an item is a layer, first_item counts rows.
template <class T>
struct SumShares {
  Layers<T> layers;
  const acc_t<T>* share;
  acc_t<T>* sum;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t l, Group group) const {
    typename Group::template Sum<acc_t<T>> total = 0;
    for (int64_t i = layers.first_item[l] + group.lane(); i < layers.first_item[l + 1];
         i += group.size()) {
      total += share[i];
    }
    total = group.sum(total);
    if (group.lane() == 0) sum[l] = static_cast<acc_t<T>>(total);
  }
};

// Forward W / sigma; backward grad / sigma - (grad . W) / sigma^2 u v^T. An item is a row.
template <class T, bool backward>
struct ScaleRows {
  Layers<T> layers;
  const acc_t<T>*sigma, *inner;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t item, Group group) const {
    using A = acc_t<T>;
    const int l = layers.find(item);
    const Layer<T>& layer = layers.layer[l];
    const int64_t r = item - layers.first_item[l];
    const A divisor = sigma[l], scale = A(1) / divisor;
    const A shift = backward ? inner[l] * scale * scale * layer.u[r] : A(0);
    const T* given = (backward ? layer.grad : layer.weight) + r * layer.columns;
    T* out = layer.out + r * layer.columns;
    for (int64_t c = group.lane(); c < layer.columns; c += kAtOnce * group.size()) {
      A values[kAtOnce], right[kAtOnce];
      REALNESS_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t place = c + k * group.size();
        values[k] = place < layer.columns ? static_cast<A>(given[place]) : A(0);
        right[k] = backward && place < layer.columns ? layer.v[place] : A(0);
      }
      REALNESS_UNROLL
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t place = c + k * group.size();
        const A result = backward ? values[k] * scale - shift * right[k] : values[k] / divisor;
        if (place < layer.columns) out[place] = static_cast<T>(result);
      }
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
