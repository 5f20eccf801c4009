#include "spectral_norm.cuh"

#include "../csrc/binding.h"

namespace realness::REALNESS_BACKEND {
namespace {

using Tensors = std::vector<Tensor>;

void check_layers(const Tensors& weights, const Tensors& u, const Tensors& v) {
  STD_TORCH_CHECK(!weights.empty() && u.size() == weights.size() && v.size() == weights.size(),
                  "expected as many u and v as weights, and at least one");
  for (size_t l = 0; l < weights.size(); ++l) {
    const Tensor& weight = weights[l];
    STD_TORCH_CHECK(weight.dim() >= 2 && weight.numel() > 0, "weight ", l,
                    ": expected [out, in, ...], not empty");
    check_dtype("weight", weight, weights[0].scalar_type());
    check_same_device(weight, weights[0]);
    for (const Tensor& vector : {u[l], v[l]}) {
      check_same_device(vector, weight);
      check_dtype("u and v", vector, accumulation_type(weight));
      STD_TORCH_CHECK(vector.is_contiguous(), "u and v: expected contiguous vectors");
    }
    check_sizes("u", u[l], {weight.size(0)});
    check_sizes("v", v[l], {weight.numel() / weight.size(0)});
  }
}

Tensors contiguous(const Tensors& tensors) {
  Tensors result;
  for (const Tensor& tensor : tensors) result.push_back(torch::stable::contiguous(tensor));
  return result;
}

int64_t one_per_row(const Tensor& weight) { return weight.size(0); }
int64_t one_per_tile(const Tensor& weight) {
  return (weight.numel() / weight.size(0) + kTileColumns - 1) / kTileColumns;
}

struct Network {
  const Tensors &weights, &u, &v;
  const Tensors* grads = nullptr;
  Tensors* outs = nullptr;

  // The layers from `begin` on that fit one launch.
  template <class T>
  Layers<T> pack(size_t begin, size_t end, int64_t (*items)(const Tensor&)) const {
    using A = acc_t<T>;
    Layers<T> layers{};
    for (size_t l = begin; l < end; ++l) {
      const int64_t rows = weights[l].size(0);
      Tensor left = u[l], right = v[l];
      layers.layer[l - begin] = {read<T>(weights[l]),
                                 grads ? read<T>((*grads)[l]) : nullptr,
                                 outs ? write<T>((*outs)[l]) : nullptr,
                                 write<A>(left),
                                 write<A>(right),
                                 rows,
                                 weights[l].numel() / rows};
      layers.first_item[l - begin + 1] = layers.first_item[l - begin] + items(weights[l]);
    }
    return layers;
  }

  // Calls f(begin, end) for groups of layers that fit one launch.
  template <class F>
  void chunks(F&& f) const {
    for (size_t begin = 0; begin < weights.size(); begin += kMaxLayers) {
      f(begin, std::min(begin + kMaxLayers, weights.size()));
    }
  }
};

template <class T>
int64_t num_items(const Layers<T>& layers, size_t count) { return layers.first_item[count]; }

void spectral_norm_step(Tensors weights_any, Tensors u, Tensors v, double eps) {
  check_layers(weights_any, u, v);
  const Device device(weights_any[0]);
  const Tensors weights = contiguous(weights_any);
  const Network network{weights, u, v};
  dispatch_floating(weights[0], [&](auto type) {
    using T = typename decltype(type)::type;
    network.chunks([&](size_t begin, size_t end) {
      const auto tiles = network.pack<T>(begin, end, one_per_tile);
      const auto rows = network.pack<T>(begin, end, one_per_row);
      const size_t count = end - begin;
      for_each_block(device.stream(), num_items(tiles, count), TransposedProduct<T>{tiles});
      for_each_block(device.stream(), num_items(rows, count), Product<T>{rows});
      for_each_block<kNormalizeThreads>(device.stream(), count, Normalize<T>{rows, static_cast<acc_t<T>>(eps)});
    });
  });
}

// sum[l] = u^T W v (forward) or the inner product of gradient and weight (backward), then the
// scaled rows.
template <bool backward>
void scale(const Device& device, const Network& network, const Tensor& sigma, Tensor& sums) {
  dispatch_floating(network.weights[0], [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    network.chunks([&](size_t begin, size_t end) {
      const auto rows = network.pack<T>(begin, end, one_per_row);
      const int64_t num_rows = num_items(rows, end - begin);
      Tensor shares = torch::stable::new_empty(sums, {num_rows});
      A* sum = write<A>(sums) + begin;
      for_each_block(device.stream(), num_rows, RowShare<T, backward>{rows, write<A>(shares)});
      for_each_block(device.stream(), end - begin, SumShares<T>{rows, read<A>(shares), sum});
      for_each_block(device.stream(), num_rows,
                     ScaleRows<T, backward>{rows, read<A>(sigma) + begin, sum});
    });
  });
}

Tensors empty_like(const Tensors& tensors) {
  Tensors result;
  for (const Tensor& tensor : tensors) result.push_back(torch::stable::empty_like(tensor));
  return result;
}

std::tuple<Tensors, Tensor> spectral_scale(Tensors weights_any, Tensors u, Tensors v) {
  check_layers(weights_any, u, v);
  const Device device(weights_any[0]);
  const Tensors weights = contiguous(weights_any);
  Tensors scaled = empty_like(weights);
  Tensor sigma = torch::stable::new_empty(u[0], {static_cast<int64_t>(weights.size())});
  scale<false>(device, {weights, u, v, nullptr, &scaled}, sigma, sigma);
  return {scaled, sigma};
}

Tensors spectral_scale_backward(Tensors grads_any, Tensors weights_any, Tensors u, Tensors v,
                                const Tensor& sigma) {
  check_layers(weights_any, u, v);
  STD_TORCH_CHECK(grads_any.size() == weights_any.size(), "expected a gradient for every weight");
  for (size_t l = 0; l < grads_any.size(); ++l) {
    check_same_device(grads_any[l], weights_any[l]);
    check_dtype("gradient", grads_any[l], weights_any[l].scalar_type());
    STD_TORCH_CHECK(grads_any[l].numel() == weights_any[l].numel(),
                    "a gradient and its weight differ in size");
  }
  check_sizes("sigma", sigma, {static_cast<int64_t>(weights_any.size())});
  check_dtype("sigma", sigma, u[0].scalar_type());
  check_same_device(sigma, u[0]);
  const Device device(weights_any[0]);
  const Tensors weights = contiguous(weights_any), grads = contiguous(grads_any);
  Tensors grad_weights = empty_like(weights);
  Tensor inner = torch::stable::empty_like(sigma);
  scale<true>(device, {weights, u, v, &grads, &grad_weights}, sigma, inner);
  return grad_weights;
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("spectral_norm_step", TORCH_BOX(&spectral_norm_step));
  m.impl("spectral_scale", TORCH_BOX(&spectral_scale));
  m.impl("spectral_scale_backward", TORCH_BOX(&spectral_scale_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
