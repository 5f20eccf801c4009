// KL(softmax(p) || softmax(q)), one warp per row.
#pragma once

#include "../csrc/softmax.cuh"

namespace realness::REALNESS_BACKEND {

template <class T>
struct DivergenceForward {
  Matrix<T> p, q;
  acc_t<T>*divergence, *normalizer_p, *normalizer_q;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    const auto normal_p = normalize(group, p, row, num_outcomes);
    const auto normal_q = normalize(group, q, row, num_outcomes);
    A total = 0;
    for (int k = group.lane(); k < num_outcomes; k += group.size()) {
      const A log_p = normal_p.log_softmax(p(row, k));
      total += kl_term(exp_(log_p), log_p, normal_q.log_softmax(q(row, k)));
    }
    total = group.sum(total);
    if (group.lane() == 0) {
      divergence[row] = total;
      store_normalizer(normalizer_p, row, normal_p);
      store_normalizer(normalizer_q, row, normal_q);
    }
  }
};

// With P, Q the distributions: d/dp = P (log P - log Q - divergence), d/dq = Q - P.
template <class T>
struct DivergenceBackward {
  Matrix<T> p, q;
  Matrix<acc_t<T>> grad, divergence, normalizer_p, normalizer_q;
  T *grad_p, *grad_q;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    const auto normal_p = stored_normalizer(normalizer_p, row);
    const auto normal_q = stored_normalizer(normalizer_q, row);
    const A scale = grad(0, row), value = divergence(0, row);
    for (int k = group.lane(); k < num_outcomes; k += group.size()) {
      const A log_p = normal_p.log_softmax(p(row, k));
      const A log_q = normal_q.log_softmax(q(row, k));
      const A mass = exp_(log_p);
      const A pull = mass != A(0) ? mass * (log_p - log_q - value) : A(0);
      grad_p[row * num_outcomes + k] = static_cast<T>(scale * pull);
      grad_q[row * num_outcomes + k] = static_cast<T>(scale * (exp_(log_q) - mass));
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
