#include "realness_emd.cuh"

#include "../csrc/anchored.h"

namespace realness::REALNESS_BACKEND {
namespace {

STABLE_TORCH_LIBRARY_IMPL(REALNESS_NAMESPACE, REALNESS_KEY, m) {
  m.impl("realness_emd", TORCH_BOX(&anchored<EmdForward>));
  m.impl("realness_emd_backward", TORCH_BOX(&anchored_backward<EmdBackward>));
}

}  // namespace
}  // namespace realness::REALNESS_BACKEND
