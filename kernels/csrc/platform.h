// One source, three ways to compile it:
//   nvcc                        the CUDA kernels
//   g++ -DREALNESS_HOST         the same functors in plain loops: the CPU implementation
//   g++ -DREALNESS_EMULATE      the CUDA kernels, thread by thread on the CPU: for the tests
// Every backend has a namespace of its own, so that one library can hold several of them.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(REALNESS_HOST)
#if !defined(REALNESS_BACKEND)  // a test compares variants
#define REALNESS_BACKEND host
#define REALNESS_NAMESPACE realness
#endif
#define REALNESS_KEY CPU
#elif defined(REALNESS_EMULATE)
#if !defined(REALNESS_BACKEND)  // the tests of planted bugs load many variants at once
#define REALNESS_BACKEND emulated
#define REALNESS_NAMESPACE realness_emu
#endif
#define REALNESS_KEY CPU
#include "emulator.h"
#else
#define REALNESS_BACKEND cuda
#define REALNESS_NAMESPACE realness
#define REALNESS_KEY CUDA
#include <cuda_runtime.h>
#endif

#if defined(__CUDACC__)
#define REALNESS_DEVICE __device__ __forceinline__
#define REALNESS_UNROLL _Pragma("unroll")
#define REALNESS_PRAGMA(text) _Pragma(#text)
#define REALNESS_UNROLL_BY(count) REALNESS_PRAGMA(unroll count)
#else
#define REALNESS_DEVICE inline
#define REALNESS_UNROLL
#define REALNESS_UNROLL_BY(count)
#endif
