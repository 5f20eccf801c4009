#include "bias_act.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

using OptionalTensor = std::optional<Tensor>;

template <int value>
using Constant = std::integral_constant<int, value>;

struct Parameters {
  int64_t activation;
  double slope, gain, clamp;
};

#if defined(REALNESS_HOST)

constexpr int64_t kRunSize = 512;  // elements, at least, of a run of several pixels

// The biases of a run of pixels whose channels are innermost: those of one, again and again.
template <class A>
std::vector<A> repeated(const Tensor& bias, int64_t times) {
  const int64_t channels = bias.numel();
  std::vector<A> biases(static_cast<size_t>(channels * times));
  for (int64_t i = 0; i < channels * times; ++i) biases[i] = read<A>(bias)[i % channels];
  return biases;
}

template <class T, int order>
void launch(const Device& device, const Tensor& x, const Tensor* grad, const Tensor* grad_grad,
            const Tensor* bias, const Parameters& parameters, Tensor& out) {
  using A = acc_t<T>;
  const int64_t channels = x.size(1);
  const bool innermost = x.dim() == 2 || is_channels_last(x);
  const int64_t pixels = (kRunSize + channels - 1) / channels;
  const int64_t plane = x.numel() / (x.size(0) * channels);
  const std::vector<A> biases = bias && innermost ? repeated<A>(*bias, pixels)
                                : bias ? repeated<A>(*bias, 1)
                                       : std::vector<A>{A(-0.0)};  // x + -0 is x, for 0 and -0 too
  const int64_t length = innermost || !bias ? pixels * channels : plane;
  const int64_t num_biases = !bias ? 1 : innermost ? 0 : channels;
  const auto go = [&](auto activation) {
    for_each_run(device.stream(), x.numel(), length,
                 BiasActRun<T, order, decltype(activation)::value>{
                     read<T>(x), grad ? read<T>(*grad) : nullptr,
                     grad_grad ? read<T>(*grad_grad) : nullptr, biases.data(), write<T>(out),
                     length, x.numel(), num_biases, static_cast<A>(parameters.slope),
                     static_cast<A>(parameters.gain), static_cast<A>(parameters.clamp)});
  };
  switch (parameters.activation) {
    case kLinear: return go(Constant<kLinear>());
    case kRelu: return go(Constant<kRelu>());
    case kLeakyRelu: return go(Constant<kLeakyRelu>());
    case kSigmoid: return go(Constant<kSigmoid>());
    case kTanh: return go(Constant<kTanh>());
    default: return go(Constant<kSoftplus>());
  }
}

#else

template <class T, int N, int order>
void launch_vectors(const Device& device, const Tensor& x, const Tensor* grad, const Tensor* grad_grad,
            const Tensor* bias, const Parameters& parameters, Tensor& out) {
  using A = acc_t<T>;
  const int64_t channels = x.size(1);
  const bool innermost = x.dim() == 2 || is_channels_last(x);
  const int64_t inner = innermost ? 1 : x.numel() / (x.size(0) * channels) / N;
  STD_TORCH_CHECK(inner <= UINT32_MAX && channels <= UINT32_MAX, "x: too large a plane");
  for_each(device.stream(), x.numel() / N,
           BiasAct<T, N, order>{read<T>(x), grad ? read<T>(*grad) : nullptr,
                                grad_grad ? read<T>(*grad_grad) : nullptr,
                                bias ? read<A>(*bias) : nullptr, write<T>(out),
                                static_cast<uint32_t>(inner), static_cast<uint32_t>(channels),
                                innermost,
                                bias && innermost && channels % N == 0 &&
                                    vectorizable<A>(0, {bias->const_data_ptr()}),
                                static_cast<int>(parameters.activation),
                                static_cast<A>(parameters.slope), static_cast<A>(parameters.gain),
                                static_cast<A>(parameters.clamp)});
}

template <class T, int order>
void launch(const Device& device, const Tensor& x, const Tensor* grad, const Tensor* grad_grad,
            const Tensor* bias, const Parameters& parameters, Tensor& out) {
  const bool innermost = x.dim() == 2 || is_channels_last(x);
  const int64_t span = x.numel() / (innermost ? 1 : x.size(0) * x.size(1));
  const auto pointer = [&](const Tensor* t) { return (t ? t : &x)->const_data_ptr(); };
  const auto go = vectorizable<T>(span, {x.const_data_ptr(), out.const_data_ptr(), pointer(grad),
                                         pointer(grad_grad)})
                      ? &launch_vectors<T, kVectorSize<T>, order>
                      : &launch_vectors<T, 1, order>;
  go(device, x, grad, grad_grad, bias, parameters, out);
}

#endif

template <int order>
Tensor run(const Tensor& x_any, const Tensor* grad_any, const Tensor* grad_grad_any,
           const OptionalTensor& bias_any, const Parameters& parameters) {
  STD_TORCH_CHECK(x_any.dim() >= 2, "x: expected [batch, channels, ...]");
  STD_TORCH_CHECK(parameters.activation >= 0 && parameters.activation < kNumActivations,
                  "activation: expected 0 to ", kNumActivations - 1);
  for (const Tensor* other : {grad_any, grad_grad_any}) {
    if (!other) continue;
    check_same_device(*other, x_any);
    check_dtype("grad", *other, x_any.scalar_type());
    STD_TORCH_CHECK(other->dim() == x_any.dim(), "grad and x differ in dimensions");
    for (int64_t d = 0; d < x_any.dim(); ++d) {
      STD_TORCH_CHECK(other->size(d) == x_any.size(d), "grad and x differ in dimension ", d);
    }
  }
  OptionalTensor bias;
  if (bias_any) {
    check_same_device(*bias_any, x_any);
    check_dtype("bias", *bias_any, accumulation_type(x_any));
    check_sizes("bias", *bias_any, {x_any.size(1)});
    bias = dense(*bias_any);
  }
  const Device device(x_any);
  const Tensor x = dense(x_any);
  OptionalTensor grad, grad_grad;
  if (grad_any) grad = dense_as(*grad_any, x);
  if (grad_grad_any) grad_grad = dense_as(*grad_grad_any, x);
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) return out;
  dispatch_floating(x, [&](auto type) {
    launch<typename decltype(type)::type, order>(device, x, grad ? &*grad : nullptr,
                                                 grad_grad ? &*grad_grad : nullptr,
                                                 bias ? &*bias : nullptr, parameters, out);
  });
  return out;
}

Tensor bias_act(const Tensor& x, OptionalTensor bias, int64_t activation, double slope,
                double gain, double clamp) {
  return run<0>(x, nullptr, nullptr, bias, {activation, slope, gain, clamp});
}

Tensor bias_act_grad(const Tensor& grad, const Tensor& x, OptionalTensor bias, int64_t activation,
                     double slope, double gain, double clamp) {
  return run<1>(x, &grad, nullptr, bias, {activation, slope, gain, clamp});
}

Tensor bias_act_grad_grad(const Tensor& grad_grad, const Tensor& grad, const Tensor& x,
                          OptionalTensor bias, int64_t activation, double slope, double gain,
                          double clamp) {
  return run<2>(x, &grad, &grad_grad, bias, {activation, slope, gain, clamp});
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("bias_act", TORCH_BOX(&bias_act));
  m.impl("bias_act_grad", TORCH_BOX(&bias_act_grad));
  m.impl("bias_act_grad_grad", TORCH_BOX(&bias_act_grad_grad));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
