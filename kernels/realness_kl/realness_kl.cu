#include "realness_kl.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

std::tuple<Tensor, Tensor> realness_kl(const Tensor& logits, const Tensor& anchor) {
  check_logits("logits", logits);
  check_anchor("anchor", anchor, logits);
  const Device device(logits);
  const int64_t batch = logits.size(0);
  Tensor kl = torch::stable::new_empty(logits, {batch}, accumulation_type(logits));
  Tensor normalizer = torch::stable::new_empty(logits, {batch, 2}, accumulation_type(logits));
  dispatch_floating(logits, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_row(device.stream(), batch,
                 KlForward<T>{matrix<T>(logits), matrix<A>(anchor), write<A>(kl),
                              write<A>(normalizer), static_cast<int>(logits.size(1))});
  });
  return {kl, normalizer};
}

Tensor realness_kl_backward(const Tensor& grad, const Tensor& logits, const Tensor& anchor,
                            const Tensor& normalizer) {
  check_logits("logits", logits);
  check_anchor("anchor", anchor, logits);
  check_row("grad", grad, logits);
  check_normalizer(normalizer, logits);
  const Device device(logits);
  const int64_t batch = logits.size(0);
  Tensor grad_logits = torch::stable::new_empty(logits, {batch, logits.size(1)});
  dispatch_floating(logits, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_row(device.stream(), batch,
                 KlBackward<T>{matrix<T>(logits), matrix<A>(anchor), matrix<A>(grad),
                               matrix<A>(normalizer), write<T>(grad_logits),
                               static_cast<int>(logits.size(1))});
  });
  return grad_logits;
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("realness_kl", TORCH_BOX(&realness_kl));
  m.impl("realness_kl_backward", TORCH_BOX(&realness_kl_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
