#include "stream.h"

namespace realness::REALNESS_BACKEND {
namespace {

enum Kind : int64_t { kWords, kUniform, kNormal };

template <class Convert>
Tensor draw(int64_t seed, int64_t purpose, const Tensor& index, int64_t dim) {
  const Device device(index);
  const ScalarType type =
      std::is_same_v<typename Convert::type, int64_t> ? ScalarType::Long : ScalarType::Float;
  Tensor draws = torch::stable::new_empty(index, {index.size(0), dim}, type);
  const int64_t blocks = (dim + 3) / 4;
  for_each(device.stream(), index.size(0) * blocks,
           Philox<Convert>{sample_words(seed, purpose, index), dim, static_cast<uint32_t>(blocks),
                           write<typename Convert::type>(draws)});
  return draws;
}

Tensor philox(int64_t seed, int64_t purpose, const Tensor& index, int64_t dim, int64_t kind) {
  check_stream(purpose, index);
  STD_TORCH_CHECK(dim >= 0 && dim <= int64_t{1} << 31, "dim: expected 0 to 2^31, got ", dim);
  STD_TORCH_CHECK(kind >= kWords && kind <= kNormal, "kind: expected 0, 1 or 2, got ", kind);
  if (kind == kWords) return draw<AsWords>(seed, purpose, index, dim);
  if (kind == kUniform) return draw<AsUniform>(seed, purpose, index, dim);
  return draw<AsNormal>(seed, purpose, index, dim);
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("philox", TORCH_BOX(&philox));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
