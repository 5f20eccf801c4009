// CUDA's execution model on one CPU thread, for tests of unchanged kernels.
//
// Every thread of a block is a fiber; barriers and warp collectives are rendezvous points. Blocks
// run one after another. REALNESS_EMU_SEED shuffles the order in which fibers run and holds one warp
// of each block back, so that a missing barrier becomes a wrong answer for some seed. Shared memory starts as NaN. A barrier or collective
// that not all of its threads reach is an error, not a hang.
// It says nothing about speed, memory ordering, races between blocks or the device's libm.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct dim3 {
  unsigned x;
};
using cudaStream_t = void*;

namespace realness::emulated::machine {

constexpr size_t kStackBytes = 128 << 10;
constexpr size_t kSharedBytes = 48 << 10;
constexpr unsigned kHoldRounds = 16;

struct Fiber {
  ucontext_t context;
  void* stack = nullptr;
  void* sanitizer_stack = nullptr;
  int thread = 0;
  bool finished = false;
  // The generation that the fiber waits to see the end of, while it waits.
  const uint64_t* awaited = nullptr;
  uint64_t generation = 0;

  bool can_run() const { return !finished && !(awaited && *awaited == generation); }
};

// The collective that the lanes of a warp are meeting in.
struct Rendezvous {
  uint32_t expected = 0, arrived = 0, exited = 0;
  int operation = 0;
  uint64_t generation = 0;
  uint64_t given[32], published[32];
};

struct State {
  std::vector<Fiber> fibers;
  std::vector<Rendezvous> warps;
  std::function<void()> body;
  std::string error;
  ucontext_t scheduler;
  Fiber* current = nullptr;
  void* sanitizer_stack = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_bytes = 0;
  unsigned block = 0, num_threads = 0, num_blocks = 0;
  int at_barrier = 0, alive = 0;
  uint64_t barrier_generation = 0;
  alignas(16) char shared[kSharedBytes];
};

inline std::atomic<int64_t> num_launches{0};

inline State& state() {
  static thread_local State instance;
  return instance;
}

// Both directions of a switch tell AddressSanitizer which stack is in use.
inline void enter(Fiber& fiber) {
  State& s = state();
  s.current = &fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&s.sanitizer_stack, fiber.stack, kStackBytes);
#endif
  swapcontext(&s.scheduler, &fiber.context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(s.sanitizer_stack, nullptr, nullptr);
#endif
}

inline void leave(bool for_good = false) {
  State& s = state();
  Fiber* self = s.current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &self->sanitizer_stack, s.scheduler_stack,
                                 s.scheduler_bytes);
#endif
  swapcontext(&self->context, &s.scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(self->sanitizer_stack, &s.scheduler_stack, &s.scheduler_bytes);
#endif
  (void)for_good;
}

[[noreturn]] inline void fail(const std::string& message) {
  state().error = message;
  for (;;) leave();
}

// Lets others run until `generation` has moved on.
inline void await_next(const uint64_t& generation) {
  Fiber* self = state().current;
  self->awaited = &generation;
  self->generation = generation;
  leave();
  self->awaited = nullptr;
}

inline void barrier() {
  State& s = state();
  if (++s.at_barrier == static_cast<int>(s.num_threads)) {
    s.at_barrier = 0;
    ++s.barrier_generation;
    return;
  }
  await_next(s.barrier_generation);
}

// Every lane named in `mask` hands in a value; the last one publishes all of them.
inline const uint64_t* collect(uint32_t mask, uint64_t value, int operation) {
  State& s = state();
  Rendezvous& warp = s.warps[s.current->thread / 32];
  const int lane = s.current->thread % 32;
  if (!(mask >> lane & 1)) fail("a lane calls a warp collective that does not name it");
  if (warp.exited & mask) fail("a warp collective names a lane that has exited");
  if (warp.arrived == 0) {
    warp.expected = mask;
    warp.operation = operation;
  } else if (warp.expected != mask || warp.operation != operation) {
    fail("lanes of one warp are in different collectives");
  }
  warp.given[lane] = value;
  warp.arrived |= 1u << lane;
  if (warp.arrived == warp.expected) {
    std::copy(warp.given, warp.given + 32, warp.published);
    warp.arrived = 0;
    ++warp.generation;
  } else {
    await_next(warp.generation);
  }
  return warp.published;
}

inline void fiber_main() {
  State& s = state();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &s.scheduler_stack, &s.scheduler_bytes);
#endif
  s.body();
  s.current->finished = true;
  s.warps[s.current->thread / 32].exited |= 1u << (s.current->thread % 32);
  --s.alive;
  leave(true);
}

inline void start_block(unsigned block) {
  State& s = state();
  s.block = block;
  s.warps.assign((s.num_threads + 31) / 32, Rendezvous());
  s.alive = static_cast<int>(s.num_threads);
  s.at_barrier = 0;
  std::memset(s.shared, 0xff, sizeof s.shared);
  for (unsigned i = 0; i < s.num_threads; ++i) {
    Fiber& fiber = s.fibers[i];
    fiber.thread = static_cast<int>(i);
    fiber.finished = false;
    fiber.awaited = nullptr;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
  }
}

inline void run_block(std::vector<int>& order, std::mt19937* shuffle) {
  State& s = state();
  const int held_back = shuffle ? static_cast<int>((*shuffle)() % s.warps.size()) : -1;
  for (unsigned round = 0; s.alive;) {
    const bool everyone = !shuffle || round % kHoldRounds == 0;
    bool progress = false;
    if (shuffle) std::shuffle(order.begin(), order.end(), *shuffle);
    for (const int i : order) {
      if (!s.fibers[i].can_run() || (!everyone && i / 32 == held_back)) continue;
      progress = true;
      enter(s.fibers[i]);
      if (!s.error.empty()) throw std::runtime_error("emulator: " + s.error);
    }
    if (everyone && !progress) {
      throw std::runtime_error("emulator: deadlock, not all threads reach a barrier or collective");
    }
    // Once all others wait, the warp that is held back has its turn.
    round = progress ? round + 1 : (round / kHoldRounds + 1) * kHoldRounds;
  }
}

inline void launch(int64_t num_blocks, int num_threads, std::function<void()> body) {
  ++num_launches;
  State& s = state();
  const char* seed_text = std::getenv("REALNESS_EMU_SEED");
  const unsigned seed = seed_text ? static_cast<unsigned>(std::atoi(seed_text)) : 0;
  std::mt19937 shuffle(seed);
  while (static_cast<int>(s.fibers.size()) < num_threads) {
    s.fibers.emplace_back();
    s.fibers.back().stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.fibers.back().stack == MAP_FAILED) throw std::runtime_error("emulator: no memory");
  }
  s.num_threads = static_cast<unsigned>(num_threads);
  s.num_blocks = static_cast<unsigned>(num_blocks);
  s.body = std::move(body);
  s.error.clear();
  std::vector<int> order(num_threads);
  for (int i = 0; i < num_threads; ++i) order[i] = i;
  for (unsigned block = 0; block < s.num_blocks; ++block) {
    start_block(block);
    run_block(order, seed ? &shuffle : nullptr);
  }
}

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct ThreadIndex {
  struct X {
    operator unsigned() const { return static_cast<unsigned>(state().current->thread); }
  } x;
};
struct BlockIndex {
  struct X {
    operator unsigned() const { return state().block; }
  } x;
};
struct BlockSize {
  struct X {
    operator unsigned() const { return state().num_threads; }
  } x;
};

}  // namespace realness::emulated::machine

// How often kernels were launched, for tests that count.
extern "C" [[gnu::visibility("default"), gnu::used]] inline int64_t realness_emulated_launches() {
  return realness::emulated::machine::num_launches;
}

static const realness::emulated::machine::ThreadIndex threadIdx;
static const realness::emulated::machine::BlockIndex blockIdx;
static const realness::emulated::machine::BlockSize blockDim;

inline void __syncthreads() { realness::emulated::machine::barrier(); }

inline int emulated_lane() { return realness::emulated::machine::state().current->thread % 32; }

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int offset) {
  using namespace realness::emulated::machine;
  const uint64_t* all = collect(mask, to_bits(value), 100 + offset);
  return from_bits<T>(all[emulated_lane() ^ offset]);
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, int offset) {
  using namespace realness::emulated::machine;
  const uint64_t* all = collect(mask, to_bits(value), 200 + offset);
  return from_bits<T>(all[emulated_lane() >= offset ? emulated_lane() - offset : emulated_lane()]);
}

template <class T>
T __shfl_sync(uint32_t mask, T value, int source) {
  using namespace realness::emulated::machine;
  return from_bits<T>(collect(mask, to_bits(value), 300)[source & 31]);
}

inline void sincospif(float x, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(M_PI * static_cast<double>(x)));
  *cosine = static_cast<float>(std::cos(M_PI * static_cast<double>(x)));
}
