// The two halves of feature resampling; reductions over the batch use one warp per outcome.
#pragma once

#include "../csrc/moments.cuh"

namespace realness::REALNESS_BACKEND {

template <class T>
struct MomentsForward {
  Matrix<T> logits;
  int64_t batch;
  acc_t<T>*mean, *variance;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t outcome, Group group) const {
    const auto moments = column_moments(group, logits, batch, outcome);
    if (group.lane() == 0) {
      mean[outcome] = moments.mean;
      variance[outcome] = moments.variance;
    }
  }
};

// d/d logits = (grad_mean + 2 (logits - mean) grad_variance) / batch
template <class T>
struct MomentsBackward {
  Matrix<T> logits;
  Matrix<acc_t<T>> grad_mean, grad_variance, mean;
  int64_t batch, num_outcomes;
  T* grad_logits;

  REALNESS_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / num_outcomes, k = i % num_outcomes;
    const auto centred = logits(row, k) - mean(0, k);
    grad_logits[i] =
        static_cast<T>((grad_mean(0, k) + 2 * centred * grad_variance(0, k)) / batch);
  }
};

template <class A>
struct ResampleForward {
  Matrix<A> mean, variance, noise;
  int64_t num_outcomes;
  A* logits;

  REALNESS_DEVICE void operator()(int64_t i) const {
    const int64_t row = i / num_outcomes, k = i % num_outcomes;
    logits[i] = mean(0, k) + sqrt_(variance(0, k)) * noise(row, k);
  }
};

// d/d mean = sum_b grad, d/d variance = sum_b grad noise / (2 sqrt(variance)), 0 where it is 0.
template <class A>
struct ResampleBackward {
  Matrix<A> grad, variance, noise;
  int64_t batch;
  A *grad_mean, *grad_variance;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t outcome, Group group) const {
    typename Group::template Sum<A> total = 0, noisy = 0;
    for (int64_t b = group.lane(); b < batch; b += group.size()) {
      total += grad(b, outcome);
      noisy += grad(b, outcome) * noise(b, outcome);
    }
    total = group.sum(total);
    noisy = group.sum(noisy);
    if (group.lane() == 0) {
      const A deviation = sqrt_(variance(0, outcome));
      grad_mean[outcome] = static_cast<A>(total);
      grad_variance[outcome] =
          deviation == A(0) ? A(0) : static_cast<A>(noisy) / (2 * deviation);
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
