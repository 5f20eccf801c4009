#include "demodulate.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

DemodulateSizes check(const Tensor& weight, const Tensor& style) {
  STD_TORCH_CHECK(weight.dim() >= 2, "weight: expected [out, in, ...]");
  check_same_device(weight, style);
  check_dtype("style", style, weight.scalar_type());
  STD_TORCH_CHECK(style.dim() == 2 && style.size(1) == weight.size(1), "style: expected [batch, ",
                  weight.size(1), "]");
  int64_t taps = 1;
  for (int64_t d = 2; d < weight.dim(); ++d) taps *= weight.size(d);
  return {style.size(0), weight.size(0), weight.size(1), taps, is_channels_last(weight)};
}

std::tuple<Tensor, Tensor> demodulate(const Tensor& weight_any, const Tensor& style, double eps) {
  const DemodulateSizes sizes = check(weight_any, style);
  const Device device(weight_any);
  const Tensor weight = dense(weight_any);
  const ScalarType wide = accumulation_type(weight);
  Tensor coefficient = torch::stable::new_empty(weight, {sizes.batch, sizes.out_channels}, wide);
  Tensor energy = torch::stable::new_empty(weight, {sizes.out_channels, sizes.in_channels}, wide);
  dispatch_floating(weight, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_block(device.stream(), sizes.out_channels,
                   DemodulateForward<T>{read<T>(weight), matrix<T>(style), static_cast<A>(eps),
                                        write<A>(coefficient), write<A>(energy), sizes});
  });
  return {coefficient, energy};
}

std::tuple<Tensor, Tensor> demodulate_backward(const Tensor& grad, const Tensor& weight_any,
                                               const Tensor& style, const Tensor& coefficient,
                                               const Tensor& energy, double) {
  const DemodulateSizes sizes = check(weight_any, style);
  for (const Tensor& other : {grad, coefficient, energy}) {
    check_same_device(other, weight_any);
    check_dtype("grad, coefficient and energy", other, accumulation_type(weight_any));
  }
  check_sizes("grad", grad, {sizes.batch, sizes.out_channels});
  check_sizes("coefficient", coefficient, {sizes.batch, sizes.out_channels});
  check_sizes("energy", energy, {sizes.out_channels, sizes.in_channels});
  const Device device(weight_any);
  const Tensor weight = dense(weight_any);
  Tensor grad_weight = torch::stable::empty_like(weight);
  Tensor grad_style = torch::stable::new_empty(style, {sizes.batch, sizes.in_channels});
  dispatch_floating(weight, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    for_each_block(
        device.stream(), sizes.out_channels,
        DemodulateWeightGrad<T>{read<T>(weight), matrix<T>(style), matrix<A>(grad),
                                matrix<A>(coefficient), write<T>(grad_weight), sizes});
    for_each(device.stream(), sizes.batch * sizes.in_channels,
             DemodulateStyleGrad<T>{matrix<T>(style), matrix<A>(grad), matrix<A>(coefficient),
                                    matrix<A>(energy), write<T>(grad_style), sizes});
  });
  return {grad_weight, grad_style};
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("demodulate", TORCH_BOX(&demodulate));
  m.impl("demodulate_backward", TORCH_BOX(&demodulate_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
