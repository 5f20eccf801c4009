// The objectives of D and G with their gradients, in one thread block: draw the noise, unless it is
// given, fit the Gaussians of both sides, resample, compare every row with its targets, and carry
// the gradient back to the logits. A batch of a few hundred rows of 51 logits fits one
// multiprocessor's first-level cache, and a single block needs neither a second launch nor atomics,
// so that the sum has a fixed order.
#pragma once

#include "../csrc/moments.cuh"
#include "../csrc/softmax.cuh"
#include "../philox/philox.cuh"

namespace realness::REALNESS_BACKEND {

// The most threads whose registers do not spill; float64 is there for tests of gradients.
template <class T>
constexpr int kLossThreads = sizeof(T) == 8 ? 256 : 1024;

// One side's logits, as they are (no noise) or resampled: mean + deviation * noise.
template <class T>
struct Side {
  Matrix<T> raw;
  Matrix<acc_t<T>> noise;
  acc_t<T>*mean, *deviation;  // [outcomes] scratch
  acc_t<T>* grad;             // [batch, outcomes]
  int batch;
  SampleWords words;
  acc_t<T>* drawn;  // [batch, outcomes], where the noise is to be drawn from the words

  REALNESS_DEVICE acc_t<T> operator()(int64_t row, int64_t k) const {
    return noise.data ? mean[k] + deviation[k] * noise(row, k) : raw(row, k);
  }

  // Same as Philox<AsNormal>.
  template <class Block>
  REALNESS_DEVICE void draw(Block block, int num_outcomes) const {
    if (!drawn) return;
    const int blocks = (num_outcomes + 3) / 4;
    for (int64_t i = block.lane(); i < static_cast<int64_t>(batch) * blocks; i += block.size()) {
      const int row = static_cast<int>(i / blocks), first = static_cast<int>(i % blocks) * 4;
      float normal[4];
      AsNormal::convert(words(row, first / 4), normal);
      REALNESS_UNROLL
      for (int j = 0; j < 4; ++j) {
        if (first + j >= num_outcomes) continue;
        drawn[static_cast<int64_t>(row) * num_outcomes + first + j] = normal[j];
      }
    }
  }

  template <class Block>
  REALNESS_DEVICE void fit(Block block, int num_outcomes) const {
    if (!noise.data) return;
    const auto warp = block.warp();
    for (int k = block.warp_index(); k < num_outcomes; k += block.num_warps()) {
      const auto moments = column_moments(warp, raw, batch, k);
      if (warp.lane() == 0) {
        mean[k] = moments.mean;
        deviation[k] = sqrt_(moments.variance);
      }
    }
  }

  // From the gradient of the resampled logits to that of the raw ones, in place:
  // d mean / d raw = 1 / batch, d deviation / d raw = (raw - mean) / (batch deviation).
  template <class Block>
  REALNESS_DEVICE void backpropagate(Block block, int num_outcomes) const {
    using A = acc_t<T>;
    if (!noise.data) return;
    const auto warp = block.warp();
    for (int k = block.warp_index(); k < num_outcomes; k += block.num_warps()) {
      A total = 0, noisy = 0;
      for (int b = warp.lane(); b < batch; b += warp.size()) {
        const A g = grad[static_cast<int64_t>(b) * num_outcomes + k];
        total += g;
        noisy += g * noise(b, k);
      }
      total = warp.sum(total) / batch;
      noisy = deviation[k] == A(0) ? A(0) : warp.sum(noisy) / (batch * deviation[k]);
      for (int b = warp.lane(); b < batch; b += warp.size()) {
        grad[static_cast<int64_t>(b) * num_outcomes + k] = total + (raw(b, k) - mean[k]) * noisy;
      }
    }
  }
};

template <class T>
struct RealnessLoss {
  using A = acc_t<T>;
  Side<T> real, fake;
  const A *anchor_real, *anchor_fake;
  A* loss;
  int num_outcomes;
  int objective;  // 0: D's, eq. 3; 1, 2, 3: G's, eq. 18, 19, 20

  template <class Block>
  REALNESS_DEVICE void operator()(int64_t, Block block) const {
    real.draw(block, num_outcomes);
    fake.draw(block, num_outcomes);
    real.fit(block, num_outcomes);
    fake.fit(block, num_outcomes);
    block.sync();
    A total = 0;
    if (objective == 0) {
      total += compare(block, real, anchor_real, false, nullptr);
      total += compare(block, fake, anchor_fake, false, nullptr);
    } else {
      total += compare(block, fake, objective == 3 ? anchor_real : nullptr, objective == 2,
                       anchor_fake);
    }
    total = block.sum(total);  // also a barrier: all rows' gradients are written
    if (block.lane() == 0) *loss = total;
    if (objective == 0) real.backpropagate(block, num_outcomes);
    fake.backpropagate(block, num_outcomes);
  }

  // This lane's part of the mean over rows of KL(toward || q) - KL(away || q), q = softmax(side),
  // where `toward` is an anchor, the real row's softmax, or nothing. Leaves the gradient in side.
  template <class Block>
  REALNESS_DEVICE A compare(Block block, const Side<T>& side, const A* toward, bool toward_real,
                            const A* away) const {
    const auto warp = block.warp();
    const A scale = A(1) / side.batch;
    A total = 0;
    for (int row = block.warp_index(); row < side.batch; row += block.num_warps()) {
      A* grad = side.grad + static_cast<int64_t>(row) * num_outcomes;
      const auto normal = normalize(warp, side, row, num_outcomes);
      Normalizer<A> normal_real{};
      if (toward_real) normal_real = normalize(warp, real, row, num_outcomes);
      A mass = 0;
      for (int k = warp.lane(); k < num_outcomes; k += warp.size()) {
        const A log_q = normal.log_softmax(side(row, k));
        A target = 0;
        if (toward_real) {
          const A log_p = normal_real.log_softmax(real(row, k));
          target = exp_(log_p);
          total += scale * kl_term(target, log_p, log_q);
        } else if (toward) {
          target = toward[k];
          total += scale * kl_term(target, log_q);
        }
        if (away) {
          target -= away[k];
          total -= scale * kl_term(away[k], log_q);
        }
        mass += target;
        grad[k] = target;
      }
      mass = warp.sum(mass);
      for (int k = warp.lane(); k < num_outcomes; k += warp.size()) {
        grad[k] = scale * (mass * exp_(normal.log_softmax(side(row, k))) - grad[k]);
      }
    }
    return total;
  }
};

// The stored gradients of one or two sides, times the gradient of the loss.
template <class T>
struct ScaleGradients {
  const acc_t<T>*scale, *unit_first, *unit_second;
  T *grad_first, *grad_second;
  int64_t first_count;

  REALNESS_DEVICE void operator()(int64_t i) const {
    if (i < first_count) {
      grad_first[i] = static_cast<T>(*scale * unit_first[i]);
    } else {
      grad_second[i - first_count] = static_cast<T>(*scale * unit_second[i - first_count]);
    }
  }
};

}  // namespace realness::REALNESS_BACKEND
