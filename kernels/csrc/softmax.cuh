// Row-wise softmax pieces shared by the realness losses.
#pragma once

#include "group.cuh"

namespace realness::REALNESS_BACKEND {

// log sum_k exp(logits[row, k]) in two parts: their sum would round huge logits' softmax away.
template <class A>
struct Normalizer {
  A peak, log_total;
  REALNESS_DEVICE A log_softmax(A logit) const { return logit - peak - log_total; }
};

// The normalizer that a forward kernel has stored, [batch, 2].
template <class A>
REALNESS_DEVICE Normalizer<A> stored_normalizer(const Matrix<A>& normalizers, int64_t row) {
  return {normalizers(row, 0), normalizers(row, 1)};
}
template <class A>
REALNESS_DEVICE void store_normalizer(A* normalizers, int64_t row, Normalizer<A> normalizer) {
  normalizers[2 * row] = normalizer.peak;
  normalizers[2 * row + 1] = normalizer.log_total;
}

// The row's normalizer, in every lane. NaN if a logit is NaN or +inf, or all are -inf.
template <class Logits, class Group>
REALNESS_DEVICE auto normalize(Group group, const Logits& logits, int64_t row,
                               int num_outcomes) {
  using A = decltype(logits(row, 0));
  A peak = -INFINITY;
  for (int k = group.lane(); k < num_outcomes; k += group.size()) {
    const A x = logits(row, k);
    peak = x > peak ? x : peak;
  }
  peak = group.max(peak);
  typename Group::template Sum<A> total = 0;
  for (int k = group.lane(); k < num_outcomes; k += group.size()) {
    total += exp_(logits(row, k) - peak);
  }
  return Normalizer<A>{peak, log_(static_cast<A>(group.sum(total)))};
}

// One outcome's share of KL(target || q). `!= 0` rather than `> 0`: NaN must stay.
template <class A>
REALNESS_DEVICE A kl_term(A target, A log_target, A log_q) {
  return target != A(0) ? target * (log_target - log_q) : A(0);
}
template <class A>
REALNESS_DEVICE A kl_term(A target, A log_q) {
  return target != A(0) ? target * (log_(target) - log_q) : A(0);
}

}  // namespace realness::REALNESS_BACKEND
