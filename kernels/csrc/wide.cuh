// 16-byte loads of elements, split immediately, from addresses of any alignment.
#pragma once

#include <cstring>
#include <type_traits>

#include "math.cuh"

namespace realness::REALNESS_BACKEND {

// Element `e` of a run of 32-bit words.
template <class T, int num_words>
REALNESS_DEVICE acc_t<T> element(const uint32_t (&words)[num_words], int e) {
  using BFloat16 = torch::headeronly::BFloat16;  // the upper half of a float
  std::conditional_t<std::is_same_v<T, BFloat16>, float, T> value;
  if constexpr (std::is_same_v<T, BFloat16>) {
    const uint32_t bits = e % 2 ? words[e / 2] & 0xffff0000u : words[e / 2] << 16;
    memcpy(&value, &bits, sizeof value);
  } else if constexpr (sizeof(T) == 2) {
    const auto bits = static_cast<uint16_t>(words[e / 2] >> 16 * (e % 2));
    memcpy(&value, &bits, sizeof value);
  } else if constexpr (sizeof(T) == 4) {
    memcpy(&value, &words[e], sizeof value);
  } else {
    const uint64_t bits = static_cast<uint64_t>(words[2 * e + 1]) << 32 | words[2 * e];
    memcpy(&value, &bits, sizeof value);
  }
  return static_cast<acc_t<T>>(value);
}

// Moves the words `by` places down, if wanted.
template <int by, int num_words>
REALNESS_DEVICE void move_down(uint32_t (&words)[num_words], bool wanted) {
  REALNESS_UNROLL
  for (int w = 0; w + by < num_words; ++w) words[w] = wanted ? words[w + by] : words[w];
}

// `length` elements from `first` on, wherever that is, by 16-byte loads: whole vectors, moved down
// to the run's start. Elements outside [0, count) are not touched and read as 0; `data` is
// aligned and `count` a multiple of a vector.
template <class T, int length>
REALNESS_DEVICE void load_run(const T* data, int64_t first, int64_t count, bool wanted,
                              acc_t<T> (&run)[length]) {
  constexpr int N = kVectorSize<T>, kVectors = (N - 1 + length - 1) / N + 1, kWords = 4 * kVectors;
  uint32_t words[kWords];
  const int shift = static_cast<int>(first & (N - 1));
  const int64_t start = first - shift;
  REALNESS_UNROLL
  for (int v = 0; v < kVectors; ++v) {
    Vector<uint32_t, 4> vector{};
    if (wanted && static_cast<uint64_t>(start + v * N) < static_cast<uint64_t>(count)) {
      vector = load<4>(reinterpret_cast<const uint32_t*>(data + start + v * N));
    }
    REALNESS_UNROLL
    for (int w = 0; w < 4; ++w) words[4 * v + w] = vector.lane[w];
  }
  const int bytes = shift * static_cast<int>(sizeof(T));
  move_down<2>(words, bytes & 8);
  move_down<1>(words, bytes & 4);
  if constexpr (sizeof(T) == 2) {
    REALNESS_UNROLL
    for (int w = 0; w + 1 < kWords; ++w) {
      const uint64_t both = static_cast<uint64_t>(words[w + 1]) << 32 | words[w];
      words[w] = static_cast<uint32_t>(both >> (bytes & 2 ? 16 : 0));
    }
  }
  REALNESS_UNROLL
  for (int e = 0; e < length; ++e) run[e] = element<T>(words, e);
}

// N elements in their arithmetic's type, or zeros if they are not wanted.
template <class T, int N>
REALNESS_DEVICE void load_lanes(const T* data, bool wanted, acc_t<T> (&lanes)[N]) {
  if constexpr (N == kVectorSize<T>) {
    Vector<uint32_t, 4> vector{};
    if (wanted) vector = load<4>(reinterpret_cast<const uint32_t*>(data));
    REALNESS_UNROLL
    for (int n = 0; n < N; ++n) lanes[n] = element<T>(vector.lane, n);
  } else {
    static_assert(N == 1);
    lanes[0] = wanted ? static_cast<acc_t<T>>(*data) : acc_t<T>(0);
  }
}

}  // namespace realness::REALNESS_BACKEND
