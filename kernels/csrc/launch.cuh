// Runs a functor over a range, on any backend. `stream` is ignored by the CPU backends.
//   for_each(n, f):        f(i)          one thread per i
//   for_each_row(n, f):    f(i, group)   one warp per i
//   for_each_block(n, f):  f(i, group)   one block of kThreads per i
//   for_each_run(n, m, f): f(i)          on the CPU only: f(i) works on m of n elements
#pragma once

#include "group.cuh"

#if defined(REALNESS_HOST)
#include <torch/csrc/stable/ops.h>

#include <memory>
#else
#include <torch/headeronly/util/Exception.h>
#endif

namespace realness::REALNESS_BACKEND {

constexpr int kThreads = 256;
// With fewer threads than this a launch should be split finer. The tests' emulator has a small
// number, so that their small inputs are split in both ways.
#if defined(REALNESS_HOST)
constexpr int64_t kThreadsToFill = 1;
#elif defined(REALNESS_EMULATE)
constexpr int64_t kThreadsToFill = 64;
#else
constexpr int64_t kThreadsToFill = 1 << 18;
#endif

#if defined(REALNESS_HOST)

using Stream = void*;
constexpr int64_t kElementsPerTask = 32768;  // as PyTorch's element-wise operators

template <class F>
void for_each(Stream, int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}
template <class F>
void for_each_run(Stream, int64_t count, int64_t length, const F& f) {
  const int64_t runs = (count + length - 1) / length, grain = (kElementsPerTask + length - 1) / length;
  torch::stable::parallel_for(0, runs, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i);
  });
}
template <class F>
void for_each_row(Stream, int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) f(i, Serial());
  });
}
template <int threads = kThreads, class F>
void for_each_block(Stream, int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    Serial serial;
    std::unique_ptr<double[]> scratch;
    if constexpr (requires { F::kScratch; }) {
      scratch.reset(new double[F::kScratch]);
      serial.scratch = scratch.get();
    }
    for (int64_t i = begin; i < end; ++i) f(i, serial);
  });
}

#else

using Stream = cudaStream_t;

// Blocks of F that share a multiprocessor, at least, which limits their registers.
template <class F>
constexpr int kBlocksTogether = 1;
template <class F>
  requires(F::kBlocks > 1)
constexpr int kBlocksTogether<F> = F::kBlocks;
template <class F>
__global__ void __launch_bounds__(kThreads, kBlocksTogether<F>)
    each_kernel(int64_t count, const __grid_constant__ F f) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) f(i);
}
template <class F>
__global__ void __launch_bounds__(kThreads, 1) row_kernel(int64_t count,
                                                               const __grid_constant__ F f) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (i < count) f(i, Warp());  // whole warps leave together
}
// A block's scratch in doubles: one per thread, or more if the functor needs it.
template <int threads, class F>
struct Scratch {
  static constexpr int size = threads;
};
template <int threads, class F>
  requires(F::kScratch > threads)
struct Scratch<threads, F> {
  static constexpr int size = F::kScratch;
};
template <int threads, class F>
__global__ void __launch_bounds__(threads, kBlocksTogether<F>)
    block_kernel(const __grid_constant__ F f) {
  constexpr int size = Scratch<threads, F>::size;
#if defined(REALNESS_EMULATE)
  double* scratch = reinterpret_cast<double*>(emulated::machine::state().shared);
  static_assert(size * sizeof(double) <= emulated::machine::kSharedBytes);
#else
  __shared__ double scratch[size];
#endif
  f(static_cast<int64_t>(blockIdx.x), Block<threads>{scratch, size});
}

#if defined(REALNESS_EMULATE)
#define REALNESS_LAUNCH(kernel, blocks, threads, stream, ...) \
  ((void)(stream), emulated::machine::launch(blocks, threads, [&] { kernel(__VA_ARGS__); }))
inline void check_launch() {}
#else
#define REALNESS_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<static_cast<unsigned>(blocks), threads, 0, stream>>>(__VA_ARGS__)
inline void check_launch() {
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "realness: kernel launch failed: ",
                  cudaGetErrorString(error));
}
#endif

inline int64_t blocks_for(int64_t count, int64_t per_block) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "realness: ", count, " items are too many for one launch");
  return blocks;
}

template <class F>
void for_each(Stream stream, int64_t count, const F& f) {
  if (count == 0) return;
  REALNESS_LAUNCH((each_kernel<F>), blocks_for(count, kThreads), kThreads, stream, count, f);
  check_launch();
}
template <class F>
void for_each_row(Stream stream, int64_t count, const F& f) {
  if (count == 0) return;
  REALNESS_LAUNCH((row_kernel<F>), blocks_for(count, kThreads / 32), kThreads, stream, count, f);
  check_launch();
}
template <int threads = kThreads, class F>
void for_each_block(Stream stream, int64_t count, const F& f) {
  if (count == 0) return;
  REALNESS_LAUNCH((block_kernel<threads, F>), blocks_for(count, 1), threads, stream, f);
  check_launch();
}

#endif

}  // namespace realness::REALNESS_BACKEND
