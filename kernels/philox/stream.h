// From an index tensor to a stream of random words.
#pragma once

#include "../csrc/binding.h"
#include "philox.cuh"

namespace realness::REALNESS_BACKEND {

inline void check_stream(int64_t purpose, const Tensor& index) {
  check_dtype("index", index, ScalarType::Long);
  STD_TORCH_CHECK(index.dim() == 1, "index: expected [batch], got ", index.dim(), " dimensions");
  STD_TORCH_CHECK(purpose >= 0 && purpose <= UINT32_MAX, "purpose: expected 32 bits");
}

inline SampleWords sample_words(int64_t seed, int64_t purpose, const Tensor& index) {
  const auto key = static_cast<uint64_t>(seed);
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32),
          static_cast<uint32_t>(purpose), read<int64_t>(index), index.stride(0)};
}

}  // namespace realness::REALNESS_BACKEND
