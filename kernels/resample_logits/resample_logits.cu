#include "resample_logits.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

// [outcomes] statistics that belong to [batch, outcomes] values.
void check_statistic(const char* name, const Tensor& statistic, const Tensor& values) {
  check_same_device(statistic, values);
  check_dtype(name, statistic, accumulation_type(values));
  check_sizes(name, statistic, {values.size(1)});
}

void check_batch(const char* name, const Tensor& logits) {
  check_logits(name, logits);
  STD_TORCH_CHECK(logits.size(0) > 0, name, ": an empty batch has no moments");
}

std::tuple<Tensor, Tensor> logit_moments(const Tensor& logits) {
  check_batch("logits", logits);
  const Device device(logits);
  const int64_t num_outcomes = logits.size(1);
  Tensor mean = torch::stable::new_empty(logits, {num_outcomes}, accumulation_type(logits));
  Tensor variance = torch::stable::new_empty(logits, {num_outcomes}, accumulation_type(logits));
  dispatch_floating(logits, [&](auto type) {
    using T = typename decltype(type)::type;
    for_each_row(device.stream(), num_outcomes,
                 MomentsForward<T>{matrix<T>(logits), logits.size(0), write<acc_t<T>>(mean),
                                   write<acc_t<T>>(variance)});
  });
  return {mean, variance};
}

Tensor logit_moments_backward(const Tensor& grad_mean, const Tensor& grad_variance,
                              const Tensor& logits, const Tensor& mean) {
  check_batch("logits", logits);
  check_statistic("grad_mean", grad_mean, logits);
  check_statistic("grad_variance", grad_variance, logits);
  check_statistic("mean", mean, logits);
  const Device device(logits);
  Tensor grad_logits = torch::stable::new_empty(logits, {logits.size(0), logits.size(1)});
  dispatch_floating(logits, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each(device.stream(), logits.numel(),
             MomentsBackward<T>{matrix<T>(logits), matrix<A>(grad_mean), matrix<A>(grad_variance),
                                matrix<A>(mean), logits.size(0), logits.size(1),
                                write<T>(grad_logits)});
  });
  return grad_logits;
}

Tensor resample_from_moments(const Tensor& mean, const Tensor& variance, const Tensor& noise) {
  check_logits("noise", noise);
  check_statistic("mean", mean, noise);
  check_statistic("variance", variance, noise);
  const Device device(noise);
  Tensor logits = torch::stable::new_empty(noise, {noise.size(0), noise.size(1)});
  dispatch_wide(noise, [&](auto type) {
    using A = typename decltype(type)::type;
    for_each(device.stream(), noise.numel(),
             ResampleForward<A>{matrix<A>(mean), matrix<A>(variance), matrix<A>(noise),
                                noise.size(1), write<A>(logits)});
  });
  return logits;
}

std::tuple<Tensor, Tensor> resample_from_moments_backward(const Tensor& grad,
                                                          const Tensor& variance,
                                                          const Tensor& noise) {
  check_logits("noise", noise);
  check_anchor("grad", grad, noise);
  check_statistic("variance", variance, noise);
  const Device device(noise);
  Tensor grad_mean = torch::stable::new_empty(noise, {noise.size(1)});
  Tensor grad_variance = torch::stable::new_empty(noise, {noise.size(1)});
  dispatch_wide(noise, [&](auto type) {
    using A = typename decltype(type)::type;
    for_each_row(device.stream(), noise.size(1),
                 ResampleBackward<A>{matrix<A>(grad), matrix<A>(variance), matrix<A>(noise),
                                     noise.size(0), write<A>(grad_mean), write<A>(grad_variance)});
  });
  return {grad_mean, grad_variance};
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("logit_moments", TORCH_BOX(&logit_moments));
  m.impl("logit_moments_backward", TORCH_BOX(&logit_moments_backward));
  m.impl("resample_from_moments", TORCH_BOX(&resample_from_moments));
  m.impl("resample_from_moments_backward", TORCH_BOX(&resample_from_moments_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
