// The Gaussian that feature resampling fits to every outcome over the batch.
#pragma once

#include "group.cuh"

namespace realness::REALNESS_BACKEND {

template <class A>
struct Moments {
  A mean, variance;
};

// Mean and biased variance of one column. Two passes: a difference of sums would cancel.
template <class T, class Group>
REALNESS_DEVICE Moments<acc_t<T>> column_moments(Group group, const Matrix<T>& x, int64_t batch,
                                                 int64_t column) {
  using A = acc_t<T>;
  typename Group::template Sum<A> total = 0;
  for (int64_t b = group.lane(); b < batch; b += group.size()) total += x(b, column);
  const A mean = static_cast<A>(group.sum(total) / batch);
  total = 0;
  for (int64_t b = group.lane(); b < batch; b += group.size()) {
    const A centred = x(b, column) - mean;
    total += centred * centred;
  }
  return {mean, static_cast<A>(group.sum(total) / batch)};
}

}  // namespace realness::REALNESS_BACKEND
