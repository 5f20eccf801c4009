// From torch tensors to raw pointers, through torch's stable ABI only.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <tuple>
#include <vector>

#include "launch.cuh"

#if !defined(REALNESS_HOST) && !defined(REALNESS_EMULATE)
// CPU builds of torch lack this symbol; weak, it leaves the library loadable there.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t, void**);
#endif

namespace realness::REALNESS_BACKEND {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the tensor's device current for as long as it lives, and knows its current stream.
class Device {
 public:
#if defined(REALNESS_HOST) || defined(REALNESS_EMULATE)
  explicit Device(const Tensor&) {}
#else
  explicit Device(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch has no CUDA");
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == 0,
                    "torch gave no CUDA stream");
    stream_ = static_cast<Stream>(stream);
  }
#endif
  Stream stream() const { return stream_; }

 private:
#if !defined(REALNESS_HOST) && !defined(REALNESS_EMULATE)
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  Stream stream_ = nullptr;
};

template <class T>
struct Type {
  using type = T;
};

// How many of float32, bfloat16, float64 and float16 are compiled. The sanitizers' tests compile
// every op many times over and make do with the first, or the first two.
#if !defined(REALNESS_NUM_TYPES)
#define REALNESS_NUM_TYPES 4
#endif

// Calls f(Type<T>()) with the element type of `tensor`.
template <class F>
void dispatch_floating(const Tensor& tensor, F&& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(Type<float>());
#if REALNESS_NUM_TYPES > 1
    case ScalarType::BFloat16:
      return f(Type<torch::headeronly::BFloat16>());
#endif
#if REALNESS_NUM_TYPES > 2
    case ScalarType::Double:
      return f(Type<double>());
    case ScalarType::Half:
      return f(Type<torch::headeronly::Half>());
#endif
    default:
      STD_TORCH_CHECK(false, "expected float32, float64, float16 or bfloat16, got ",
                      torch::headeronly::toString(tensor.scalar_type()));
  }
}

// Calls f(Type<float>()) or f(Type<double>()).
template <class F>
void dispatch_wide(const Tensor& tensor, F&& f) {
  if (tensor.scalar_type() == ScalarType::Double) return f(Type<double>());
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, "expected float32 or float64, got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  f(Type<float>());
}

inline ScalarType accumulation_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

template <class T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* write(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline void check_dtype(const char* name, const Tensor& tensor, ScalarType expected) {
  STD_TORCH_CHECK(tensor.scalar_type() == expected, name, " is ",
                  torch::headeronly::toString(tensor.scalar_type()), ", expected ",
                  torch::headeronly::toString(expected));
}
inline void check_sizes(const char* name, const Tensor& tensor,
                        std::initializer_list<int64_t> expected) {
  bool same = tensor.dim() == static_cast<int64_t>(expected.size());
  for (int64_t d = 0; same && d < tensor.dim(); ++d) same = tensor.size(d) == expected.begin()[d];
  STD_TORCH_CHECK(same, name, " has an unexpected shape of ", tensor.numel(), " elements in ",
                  tensor.dim(), " dimensions");
}
inline void check_same_device(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index(),
                  "all tensors must be on one device");
}

constexpr int64_t kMaxOutcomes = 1024;

// [batch, outcomes] logits.
inline void check_logits(const char* name, const Tensor& logits) {
  STD_TORCH_CHECK(logits.dim() == 2 && logits.size(1) >= 1 && logits.size(1) <= kMaxOutcomes, name,
                  ": expected [batch, 1 to ", kMaxOutcomes, " outcomes]");
}
// An [outcomes] or [batch, outcomes] companion of the logits, in the dtype of their arithmetic.
inline void check_anchor(const char* name, const Tensor& anchor, const Tensor& logits) {
  check_same_device(anchor, logits);
  check_dtype(name, anchor, accumulation_type(logits));
  if (anchor.dim() == 1) {
    check_sizes(name, anchor, {logits.size(1)});
  } else {
    check_sizes(name, anchor, {logits.size(0), logits.size(1)});
  }
}

// One value for every row of the logits.
inline void check_row(const char* name, const Tensor& row, const Tensor& logits) {
  check_same_device(row, logits);
  check_dtype(name, row, accumulation_type(logits));
  check_sizes(name, row, {logits.size(0)});
}

// The stored normalizers of a softmax, a pair for every row.
inline void check_normalizer(const Tensor& normalizer, const Tensor& logits) {
  check_same_device(normalizer, logits);
  check_dtype("normalizer", normalizer, accumulation_type(logits));
  check_sizes("normalizer", normalizer, {logits.size(0), 2});
}

// Any strides; a vector stands for the same row again and again.
template <class T>
Matrix<T> matrix(const Tensor& tensor) {
  if (tensor.dim() == 1) return {read<T>(tensor), 0, tensor.stride(0)};
  return {read<T>(tensor), tensor.stride(0), tensor.stride(1)};
}

inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4 || x.is_contiguous()) return false;
  const int order[4] = {1, 3, 2, 0};
  int64_t expected = 1;
  for (const int d : order) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}
inline MemoryFormat format_of(const Tensor& x) {
  return is_channels_last(x) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
}
// x itself where it is contiguous or channels_last, otherwise a contiguous copy.
inline Tensor dense(const Tensor& x) { return torch::stable::contiguous(x, format_of(x)); }
inline Tensor dense_as(const Tensor& x, const Tensor& other) {
  return torch::stable::contiguous(x, format_of(other));
}

// Whether elements can be moved 16 bytes at a time in groups that never cross a multiple of `span`.
template <class T>
bool vectorizable(int64_t span, std::initializer_list<const void*> pointers) {
  bool aligned = span % kVectorSize<T> == 0;
  for (const void* pointer : pointers) aligned &= reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  return aligned;
}

}  // namespace realness::REALNESS_BACKEND
