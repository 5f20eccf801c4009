// Earth Mover's Distance between softmax(logits) and an anchor on ordered outcomes: a warp per row.
#pragma once

#include "../csrc/softmax.cuh"

namespace realness::REALNESS_BACKEND {

// Walks over the outcomes in order and calls visit(k, q_k, F_q(k), F_q(k) - F_anchor(k)) in every
// lane; k may exceed the last outcome. The last difference is 0 by definition.
template <class T, class Group, class Visit>
REALNESS_DEVICE void walk(Group group, const Matrix<T>& logits, const Matrix<acc_t<T>>& anchor,
                          int64_t row, const Normalizer<acc_t<T>>& normal, int num_outcomes, Visit visit) {
  using A = acc_t<T>;
  typename Group::template Sum<A> moved = 0, below = 0;
  for (int base = 0; base < num_outcomes; base += group.size()) {
    const int k = base + group.lane();
    const bool inside = k < num_outcomes;
    const A q = inside ? exp_(normal.log_softmax(logits(row, k))) : A(0);
    const auto difference = moved + group.inclusive_sum(inside ? q - anchor(row, k) : A(0));
    const auto cumulative = below + group.inclusive_sum(q);
    visit(k, q, static_cast<A>(cumulative),
          k < num_outcomes - 1 ? static_cast<A>(difference) : A(0));
    moved = group.last(difference);
    below = group.last(cumulative);
  }
}

template <class T>
struct EmdForward {
  Matrix<T> logits;
  Matrix<acc_t<T>> anchor;
  acc_t<T>*distance, *normalizer;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    const auto normal = normalize(group, logits, row, num_outcomes);
    typename Group::template Sum<A> total = 0;
    walk(group, logits, anchor, row, normal, num_outcomes,
         [&](int, A, A, A difference) { total += abs_(difference); });
    total = group.sum(total);
    if (group.lane() == 0) {
      distance[row] = static_cast<A>(total);
      store_normalizer(normalizer, row, normal);
    }
  }
};

// With s_k = sign(F_q(k) - F_anchor(k)): d/d logit_i = q_i (sum_{k >= i} s_k - sum_k s_k F_q(k)).
template <class T>
struct EmdBackward {
  Matrix<T> logits;
  Matrix<acc_t<T>> anchor, grad, normalizer;
  T* grad_logits;
  int num_outcomes;

  template <class Group>
  REALNESS_DEVICE void operator()(int64_t row, Group group) const {
    using A = acc_t<T>;
    const auto normal = stored_normalizer(normalizer, row);
    const A scale = grad(0, row);
    typename Group::template Sum<A> signs = 0, mean = 0;
    walk(group, logits, anchor, row, normal, num_outcomes,
         [&](int, A, A cumulative, A difference) {
           signs += sign(difference);
           mean += sign(difference) * cumulative;
         });
    signs = group.sum(signs);
    mean = group.sum(mean);
    A before = 0;
    walk(group, logits, anchor, row, normal, num_outcomes, [&](int k, A q, A, A difference) {
      const A upto = before + group.inclusive_sum(sign(difference));
      const auto from = signs - upto + sign(difference);
      if (k < num_outcomes) {
        grad_logits[row * num_outcomes + k] = static_cast<T>(scale * q * static_cast<A>(from - mean));
      }
      before = group.last(upto);
    });
  }

  template <class A>
  REALNESS_DEVICE static A sign(A x) {
    return A(x > A(0)) - A(x < A(0));
  }
};

}  // namespace realness::REALNESS_BACKEND
