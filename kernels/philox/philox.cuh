// Philox4x32-10 (Salmon et al., SC 2011), one thread per block of four words.
#pragma once

#include "../csrc/math.cuh"

namespace realness::REALNESS_BACKEND {

struct Words {
  uint32_t x, y, z, w;
};

REALNESS_DEVICE Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
  REALNESS_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.x;
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.z;
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter.y ^ key0,
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter.w ^ key1,
               static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

struct Pair {
  float first, second;
};

// Box-Muller. -log u is taken from the nearer end of (0, 1), where float is exact.
REALNESS_DEVICE Pair normal_pair(uint32_t radius_word, uint32_t angle_word) {
#if defined(REALNESS_HOST)
  const double radius = std::sqrt(-2.0 * std::log((radius_word + 0.5) * 0x1p-32));
  const double angle = angle_word * (2.0 * M_PI * 0x1p-32);
  return {static_cast<float>(radius * std::cos(angle)),
          static_cast<float>(radius * std::sin(angle))};
#else
  const bool upper = radius_word >> 31;
  const uint32_t distance = upper ? ~radius_word : radius_word;
  const float u = static_cast<float>(distance) * 0x1p-32f + 0x1p-33f;
  const float radius = sqrt_(-2.0f * (upper ? log1p_(-u) : log_(u)));
  float sine, cosine;
  sincospif(static_cast<float>(static_cast<int32_t>(angle_word)) * 0x1p-31f, &sine, &cosine);
  return {radius * cosine, radius * sine};
#endif
}

struct AsWords {
  using type = int64_t;
  REALNESS_DEVICE static void convert(Words words, type (&out)[4]) {
    out[0] = words.x, out[1] = words.y, out[2] = words.z, out[3] = words.w;
  }
};

// (k + 1/2) 2^-23 for the upper 23 bits k: exact in float32 and never 0 or 1.
struct AsUniform {
  using type = float;
  REALNESS_DEVICE static float uniform(uint32_t word) {
    return (static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f;
  }
  REALNESS_DEVICE static void convert(Words words, type (&out)[4]) {
    out[0] = uniform(words.x), out[1] = uniform(words.y);
    out[2] = uniform(words.z), out[3] = uniform(words.w);
  }
};

struct AsNormal {
  using type = float;
  REALNESS_DEVICE static void convert(Words words, type (&out)[4]) {
    const Pair low = normal_pair(words.x, words.y), high = normal_pair(words.z, words.w);
    out[0] = low.first, out[1] = low.second, out[2] = high.first, out[3] = high.second;
  }
};

// The words of samples; those of a row depend only on its index, not on the other rows.
struct SampleWords {
  uint32_t key0, key1, purpose;
  const int64_t* index;
  int64_t index_stride;

  REALNESS_DEVICE Words operator()(int64_t row, int64_t block) const {
    const uint64_t sample = static_cast<uint64_t>(index[row * index_stride]);
    return philox4x32({static_cast<uint32_t>(block), purpose, static_cast<uint32_t>(sample),
                       static_cast<uint32_t>(sample >> 32)},
                      key0, key1);
  }
};

template <class Convert>
struct Philox {
  SampleWords stream;
  int64_t dim;
  uint32_t blocks_per_row;
  typename Convert::type* draws;

  REALNESS_DEVICE void operator()(int64_t i) const {
    uint64_t row = static_cast<uint64_t>(i);
    const int64_t block = take(row, blocks_per_row);
    typename Convert::type out[4];
    Convert::convert(stream(static_cast<int64_t>(row), block), out);
    if constexpr (sizeof(out) == 16) {
      if (dim % 4 == 0) {
        Vector<typename Convert::type, 4> vector;
        REALNESS_UNROLL
        for (int j = 0; j < 4; ++j) vector.lane[j] = out[j];
        return store(draws + 4 * i, vector);
      }
    }
    REALNESS_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t column = 4 * block + j;
      if (column < dim) draws[static_cast<int64_t>(row) * dim + column] = out[j];
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
