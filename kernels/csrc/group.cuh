// The threads that work on one item together. Algorithms are written once against this interface:
//   lane(), size()             this thread's number and how many there are
//   sum(x), max(x)             over all lanes, the result in every lane; max ignores NaN
//   inclusive_sum(x), last(x)  prefix sum over the lanes; the value of the last lane
//   sync()                     all lanes' writes are visible to all lanes
//   scratch                    memory of the block, F::kScratch doubles if the functor F names that
//   warp(), warp_index(), num_warps()   its parts, for algorithms with two levels
//   sum_over_warps(x)          for every lane of a warp the sum over the warps, valid in warp 0
//   sum_runs(n, length, f, y)  y[i] = f(i length) + ... + f(i length + length - 1) for i < n, which
//                              all lanes see; neighbouring lanes call f of neighbouring numbers
#pragma once

#include "math.cuh"

namespace realness::REALNESS_BACKEND {

#if defined(REALNESS_HOST)

// One CPU thread. It adds long rows term by term, so it uses double.
struct Serial {
  template <class A>
  using Sum = double;
  double* scratch = nullptr;
  static int lane() { return 0; }
  static int size() { return 1; }
  template <class A> static A sum(A x) { return x; }
  template <class A> static A max(A x) { return x; }
  template <class A> static A inclusive_sum(A x) { return x; }
  template <class A> static A last(A x) { return x; }
  template <class A> static A sum_over_warps(A x) { return x; }
  template <class A, class F>
  static void sum_runs(int64_t num_runs, int64_t length, const F& f, A* sums) {
    for (int64_t i = 0; i < num_runs; ++i) {
      double total = 0;
      for (int64_t k = 0; k < length; ++k) total += f(i * length + k);
      sums[i] = static_cast<A>(total);
    }
  }
  static void sync() {}
  static Serial warp() { return {}; }
  static int warp_index() { return 0; }
  static int num_warps() { return 1; }
};

#else

constexpr uint32_t kFullWarp = 0xffffffffu;

struct Warp {
  template <class A>
  using Sum = A;
  REALNESS_DEVICE static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  REALNESS_DEVICE static constexpr int size() { return 32; }
  template <class A>
  REALNESS_DEVICE static A sum(A x) {
    REALNESS_UNROLL
    for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
    return x;
  }
  template <class A>
  REALNESS_DEVICE static A max(A x) {
    REALNESS_UNROLL
    for (int offset = 16; offset > 0; offset /= 2) {
      const A other = __shfl_xor_sync(kFullWarp, x, offset);
      x = other > x ? other : x;
    }
    return x;
  }
  template <class A>
  REALNESS_DEVICE static A inclusive_sum(A x) {
    REALNESS_UNROLL
    for (int offset = 1; offset < 32; offset *= 2) {
      const A below = __shfl_up_sync(kFullWarp, x, offset);
      x += lane() >= offset ? below : A(0);
    }
    return x;
  }
  template <class A>
  REALNESS_DEVICE static A last(A x) { return __shfl_sync(kFullWarp, x, 31); }
};

// A whole thread block of a multiple of 32 threads. Their number is a constant, so that loops over
// the block are unrolled with several loads in flight.
template <int threads>
struct Block {
  template <class A>
  using Sum = A;
  double* scratch;  // shared memory, at least one value per thread
  int scratch_size;
  REALNESS_DEVICE static int lane() { return static_cast<int>(threadIdx.x); }
  REALNESS_DEVICE static constexpr int size() { return threads; }
  REALNESS_DEVICE static void sync() { __syncthreads(); }
  REALNESS_DEVICE static Warp warp() { return {}; }
  REALNESS_DEVICE static int warp_index() { return static_cast<int>(threadIdx.x) / 32; }
  REALNESS_DEVICE static constexpr int num_warps() { return threads / 32; }
  template <class A>
  REALNESS_DEVICE A sum(A x) const {
    A* parts = reinterpret_cast<A*>(scratch);
    x = Warp::sum(x);
    __syncthreads();  // the scratch may still be read by an earlier sum
    if (Warp::lane() == 0) parts[warp_index()] = x;
    __syncthreads();
    return Warp::sum(Warp::lane() < num_warps() ? parts[Warp::lane()] : A(0));
  }
  template <class A>
  REALNESS_DEVICE A sum_over_warps(A x) const {
    A* parts = reinterpret_cast<A*>(scratch);
    __syncthreads();
    parts[threadIdx.x] = x;
    __syncthreads();
    if (warp_index() > 0) return x;
    for (int w = 1; w < num_warps(); ++w) x += parts[w * 32 + Warp::lane()];
    return x;
  }
  // Through the scratch, as many whole runs at a time as it holds, at least one.
  template <class A, class F>
  REALNESS_DEVICE void sum_runs(int64_t num_runs, int64_t length, const F& f, A* sums) const {
    A* stage = reinterpret_cast<A*>(scratch);
    const int64_t room = static_cast<int64_t>(scratch_size * sizeof(double) / sizeof(A));
    const int64_t runs_at_once = length > 0 ? room / length : num_runs;
    for (int64_t first = 0; first < num_runs; first += runs_at_once) {
      const int64_t left = num_runs - first;
      const int runs = static_cast<int>(left < runs_at_once ? left : runs_at_once);
      __syncthreads();  // the scratch may still be read
      REALNESS_UNROLL_BY(8)  // loads in flight
      for (int e = lane(); e < runs * static_cast<int>(length); e += size()) {
        stage[e] = f(first * length + e);
      }
      __syncthreads();
      for (int i = lane(); i < runs; i += size()) {
        A total = 0;
        for (int k = 0; k < static_cast<int>(length); ++k) {
          total += stage[i * static_cast<int>(length) + k];
        }
        sums[first + i] = total;
      }
    }
    __syncthreads();
  }
};

#endif

}  // namespace realness::REALNESS_BACKEND
