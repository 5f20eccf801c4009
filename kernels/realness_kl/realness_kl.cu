#include "realness_kl.cuh"

#include "../csrc/anchored.h"

namespace realness::REALNESS_BACKEND {
namespace {

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("realness_kl", TORCH_BOX(&anchored<KlForward>));
  m.impl("realness_kl_backward", TORCH_BOX(&anchored_backward<KlBackward>));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
