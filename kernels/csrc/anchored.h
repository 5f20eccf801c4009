// A distance between every row of logits and an anchor: what the operators of one share.
#pragma once

#include "binding.h"

namespace realness::REALNESS_BACKEND {

// The distances [batch], and the normalizers [batch, 2] that the gradient wants.
template <template <class> class Forward>
std::tuple<Tensor, Tensor> anchored(const Tensor& logits, const Tensor& anchor) {
  check_logits("logits", logits);
  check_anchor("anchor", anchor, logits);
  const Device device(logits);
  const int64_t batch = logits.size(0);
  Tensor distance = torch::stable::new_empty(logits, {batch}, accumulation_type(logits));
  Tensor normalizer = torch::stable::new_empty(logits, {batch, 2}, accumulation_type(logits));
  dispatch_floating(logits, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_row(device.stream(), batch,
                 Forward<T>{matrix<T>(logits), matrix<A>(anchor), write<A>(distance),
                            write<A>(normalizer), static_cast<int>(logits.size(1))});
  });
  return {distance, normalizer};
}

// The logits' gradient, from that of the distances.
template <template <class> class Backward>
Tensor anchored_backward(const Tensor& grad, const Tensor& logits, const Tensor& anchor,
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
                 Backward<T>{matrix<T>(logits), matrix<A>(anchor), matrix<A>(grad),
                             matrix<A>(normalizer), write<T>(grad_logits),
                             static_cast<int>(logits.size(1))});
  });
  return grad_logits;
}

}  // namespace realness::REALNESS_BACKEND
