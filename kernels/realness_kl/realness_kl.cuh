// KL(anchor || softmax(logits)), one warp per row.
#pragma once

#include "../csrc/softmax.cuh"

namespace realness::REALNESS_BACKEND {

template <class T>
struct KlForward {
  Matrix<T> logits;
  Matrix<acc_t<T>> anchor;
  acc_t<T>*kl, *normalizer;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    const auto normal = normalize(group, logits, row, num_outcomes);
    A total = 0;
    for (int k = group.lane(); k < num_outcomes; k += group.size()) {
      total += kl_term(anchor(row, k), normal.log_softmax(logits(row, k)));
    }
    total = group.sum(total);
    if (group.lane() == 0) {
      kl[row] = total;
      store_normalizer(normalizer, row, normal);
    }
  }
};

// d KL / d logits = sum(anchor) softmax(logits) - anchor
template <class T>
struct KlBackward {
  Matrix<T> logits;
  Matrix<acc_t<T>> anchor, grad, normalizer;
  T* grad_logits;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    A mass = 0;
    for (int k = group.lane(); k < num_outcomes; k += group.size()) mass += anchor(row, k);
    mass = group.sum(mass);
    const auto normal = stored_normalizer(normalizer, row);
    const A scale = grad(0, row);
    for (int k = group.lane(); k < num_outcomes; k += group.size()) {
      const A q = exp_(normal.log_softmax(logits(row, k)));
      grad_logits[row * num_outcomes + k] = static_cast<T>(scale * (mass * q - anchor(row, k)));
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
