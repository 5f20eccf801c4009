#include "realness_divergence.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

void check(const Tensor& p, const Tensor& q) {
  check_logits("logits_p", p);
  check_sizes("logits_q", q, {p.size(0), p.size(1)});
  check_dtype("logits_q", q, p.scalar_type());
  check_same_device(p, q);
}

std::tuple<Tensor, Tensor, Tensor> realness_divergence(const Tensor& p, const Tensor& q) {
  check(p, q);
  const Device device(p);
  const int64_t batch = p.size(0);
  Tensor divergence = torch::stable::new_empty(p, {batch}, accumulation_type(p));
  Tensor normalizer_p = torch::stable::new_empty(p, {batch, 2}, accumulation_type(p));
  Tensor normalizer_q = torch::stable::new_empty(p, {batch, 2}, accumulation_type(p));
  dispatch_floating(p, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_row(device.stream(), batch,
                 DivergenceForward<T>{matrix<T>(p), matrix<T>(q), write<A>(divergence),
                                      write<A>(normalizer_p), write<A>(normalizer_q),
                                      static_cast<int>(p.size(1))});
  });
  return {divergence, normalizer_p, normalizer_q};
}

std::tuple<Tensor, Tensor> realness_divergence_backward(
    const Tensor& grad, const Tensor& p, const Tensor& q, const Tensor& divergence,
    const Tensor& normalizer_p, const Tensor& normalizer_q) {
  check(p, q);
  const int64_t batch = p.size(0);
  check_row("grad", grad, p);
  check_row("divergence", divergence, p);
  check_normalizer(normalizer_p, p);
  check_normalizer(normalizer_q, p);
  const Device device(p);
  Tensor grad_p = torch::stable::new_empty(p, {batch, p.size(1)});
  Tensor grad_q = torch::stable::new_empty(p, {batch, p.size(1)});
  dispatch_floating(p, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_row(
        device.stream(), batch,
        DivergenceBackward<T>{matrix<T>(p), matrix<T>(q), matrix<A>(grad), matrix<A>(divergence),
                              matrix<A>(normalizer_p), matrix<A>(normalizer_q), write<T>(grad_p),
                              write<T>(grad_q), static_cast<int>(p.size(1))});
  });
  return {grad_p, grad_q};
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("realness_divergence", TORCH_BOX(&realness_divergence));
  m.impl("realness_divergence_backward", TORCH_BOX(&realness_divergence_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
