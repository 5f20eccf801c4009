#include "realness_loss.cuh"

#include "../philox/stream.h"

namespace realness::REALNESS_BACKEND {
namespace {

using OptionalTensor = std::optional<Tensor>;

// noise: [batch, outcomes] values, or [batch] integers: the index of normal draws.
struct SideTensors {
  const char* name;
  const Tensor* logits;
  OptionalTensor noise;
  int64_t seed, purpose;
  Tensor grad, drawn;

  bool draws() const { return noise && noise->scalar_type() == ScalarType::Long; }
};

void check_side(const SideTensors& side, const Tensor& like) {
  const Tensor& logits = *side.logits;
  check_logits(side.name, logits);
  check_same_device(logits, like);
  check_dtype(side.name, logits, like.scalar_type());
  STD_TORCH_CHECK(logits.size(0) > 0 && logits.size(0) <= INT32_MAX, side.name,
                  ": expected 1 to 2^31 - 1 rows, got ", logits.size(0));
  STD_TORCH_CHECK(logits.size(1) == like.size(1), side.name, ": expected ", like.size(1),
                  " outcomes, got ", logits.size(1));
  if (side.draws()) {
    check_stream(side.purpose, *side.noise);
    check_same_device(*side.noise, logits);
    check_sizes("index", *side.noise, {logits.size(0)});
  } else if (side.noise) {
    check_sizes("noise", *side.noise, {logits.size(0), logits.size(1)});
    check_anchor("noise", *side.noise, logits);
  }
}

template <class T>
Side<T> as_side(SideTensors& side, acc_t<T>* scratch) {
  using A = acc_t<T>;
  if (!side.logits) return {};
  const int64_t batch = side.logits->size(0), num_outcomes = side.logits->size(1);
  Side<T> made{matrix<T>(*side.logits), {}, scratch, scratch + num_outcomes,
               side.grad.defined() ? write<A>(side.grad) : nullptr, static_cast<int>(batch), {},
               nullptr};
  if (side.draws()) {
    side.drawn = torch::stable::new_empty(*side.logits, {batch, num_outcomes},
                                          accumulation_type(*side.logits));
    made.words = sample_words(side.seed, side.purpose, *side.noise);
    made.drawn = write<A>(side.drawn);
    made.noise = matrix<A>(side.drawn);
  } else if (side.noise) {
    made.noise = matrix<A>(*side.noise);
  }
  return made;
}

Tensor loss(SideTensors& real, SideTensors& fake, const Tensor& anchor_real,
            const Tensor& anchor_fake, int64_t objective) {
  const Tensor& like = *fake.logits;
  check_side(fake, like);
  if (real.logits) check_side(real, like);
  for (const Tensor& anchor : {anchor_real, anchor_fake}) {
    check_anchor("anchor", anchor, like);
    STD_TORCH_CHECK(anchor.dim() == 1, "anchor: expected [outcomes]");
  }
  STD_TORCH_CHECK(objective >= 0 && objective <= 3, "objective: expected 1, 2 or 3");
  STD_TORCH_CHECK(objective != 2 || (real.logits && real.logits->size(0) == like.size(0)),
                  "objective 2 needs as many real as fake rows");
  const Device device(like);
  const ScalarType wide = accumulation_type(like);
  const int64_t num_outcomes = like.size(1);
  Tensor value = torch::stable::new_empty(like, {}, wide);
  Tensor scratch = torch::stable::new_empty(like, {4, num_outcomes}, wide);
  const Tensor targets[2] = {dense(anchor_real), dense(anchor_fake)};
  dispatch_floating(like, [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    A* room = write<A>(scratch);
    for_each_block<kLossThreads<T>>(
        device.stream(), 1,
        RealnessLoss<T>{as_side<T>(real, room), as_side<T>(fake, room + 2 * num_outcomes),
                        read<A>(targets[0]), read<A>(targets[1]), write<A>(value),
                        static_cast<int>(num_outcomes), static_cast<int>(objective)});
  });
  return value;
}

Tensor empty_gradient(const Tensor& logits) {
  check_logits("logits", logits);
  return torch::stable::new_empty(logits, {logits.size(0), logits.size(1)},
                                  accumulation_type(logits));
}

void check_keys(const std::vector<int64_t>& keys) {
  STD_TORCH_CHECK(keys.size() == 4, "keys: expected seed and purpose of both sides, got ",
                  keys.size(), " numbers");
}

std::tuple<Tensor, Tensor, Tensor> realness_d_loss(
    const Tensor& logits_real, const Tensor& logits_fake, const Tensor& anchor_real,
    const Tensor& anchor_fake, OptionalTensor noise_real, OptionalTensor noise_fake,
    std::vector<int64_t> keys) {
  check_keys(keys);
  SideTensors real{"logits_real", &logits_real, noise_real, keys[0], keys[1],
                   empty_gradient(logits_real), Tensor()};
  SideTensors fake{"logits_fake", &logits_fake, noise_fake, keys[2], keys[3],
                   empty_gradient(logits_fake), Tensor()};
  const Tensor value = loss(real, fake, anchor_real, anchor_fake, 0);
  return {value, real.grad, fake.grad};
}

std::tuple<Tensor, Tensor> realness_g_loss(const Tensor& logits_fake, OptionalTensor logits_real,
                                           const Tensor& anchor_real, const Tensor& anchor_fake,
                                           OptionalTensor noise_fake, OptionalTensor noise_real,
                                           int64_t objective, std::vector<int64_t> keys) {
  STD_TORCH_CHECK(objective > 0, "objective: expected 1, 2 or 3");
  check_keys(keys);
  SideTensors real{"logits_real", logits_real ? &*logits_real : nullptr, noise_real, keys[0],
                   keys[1], Tensor(), Tensor()};
  SideTensors fake{"logits_fake", &logits_fake, noise_fake, keys[2], keys[3],
                   empty_gradient(logits_fake), Tensor()};
  const Tensor value = loss(real, fake, anchor_real, anchor_fake, objective);
  return {value, fake.grad};
}

std::vector<Tensor> realness_loss_backward(const Tensor& grad, std::vector<Tensor> unit_gradients,
                                           std::vector<Tensor> logits) {
  STD_TORCH_CHECK(!logits.empty() && logits.size() <= 2 && unit_gradients.size() == logits.size(),
                  "expected one or two sides");
  const Device device(logits[0]);
  check_sizes("grad", grad, {});
  check_dtype("grad", grad, accumulation_type(logits[0]));
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < logits.size(); ++i) {
    check_logits("logits", logits[i]);
    check_dtype("logits", logits[i], logits[0].scalar_type());
    check_anchor("unit gradient", unit_gradients[i], logits[i]);
    check_same_device(grad, logits[i]);
    STD_TORCH_CHECK(unit_gradients[i].is_contiguous() && unit_gradients[i].dim() == 2,
                    "expected contiguous unit gradients");
    gradients.push_back(
        torch::stable::new_empty(logits[i], {logits[i].size(0), logits[i].size(1)}));
  }
  const size_t second = logits.size() - 1;
  dispatch_floating(logits[0], [&](auto type) {
    using T = typename decltype(type)::type;
    using A = acc_t<T>;
    const int64_t count = logits[0].numel() + (second ? logits[second].numel() : 0);
    for_each(device.stream(), count,
             ScaleGradients<T>{read<A>(grad),
                               read<A>(unit_gradients[0]), read<A>(unit_gradients[second]),
                               write<T>(gradients[0]), write<T>(gradients[second]),
                               logits[0].numel()});
  });
  return gradients;
}

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("realness_d_loss", TORCH_BOX(&realness_d_loss));
  m.impl("realness_g_loss", TORCH_BOX(&realness_g_loss));
  m.impl("realness_loss_backward", TORCH_BOX(&realness_loss_backward));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
