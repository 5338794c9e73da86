// Included before every kernel in place of what nvcc and NVRTC know by themselves.
// Each CUDA thread is a fiber; fibers.cpp runs them.
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include <vector_functions.h>
#include <vector_types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "grid.h"

#define __CUDA_ON_CPU__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __shared__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __grid_constant__
#undef __align__
#undef __restrict__
#define __global__
#define __device__
#define __host__
#define __constant__ static
// Thread-local variables are found through __tls_get_addr, which below is our own: it points into
// memory that every block gets anew.
#define __shared__ static thread_local
// Really inline: g++ shows copies of structs to the race detector only where they are taken apart.
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__ __restrict
#define __builtin_assume(x) ((void)0)

#ifndef INFINITY
#define INFINITY __builtin_inff()
#endif

extern "C" __attribute__((visibility("hidden"), no_sanitize("thread", "address"))) inline void*
__tls_get_addr(size_t* module_and_offset) {
  return coc_grid.static_shared + module_and_offset[1];
}
// An inline function is only emitted where it is used; the calls that the compiler makes don't count.
__attribute__((used)) static void* (*const coc_keep_tls)(size_t*) = __tls_get_addr;

namespace coc {

template <class... A>
struct Call {
  static constexpr size_t sizes[] = {sizeof(A)..., 0};
  static constexpr bool pointers[] = {std::is_pointer_v<A>..., false};
  template <size_t... I>
  static void apply(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
  }
  static void run(void (*function)(), void** arguments) {
    apply(reinterpret_cast<void (*)(A...)>(function), arguments, std::index_sequence_for<A...>{});
  }
};

template <class... A>
coc_kernel_t describe(void (*kernel)(A...), int max_threads) {
  return {reinterpret_cast<void (*)()>(kernel), Call<A...>::run, max_threads,
          static_cast<int>(sizeof...(A)), Call<A...>::sizes, Call<A...>::pointers};
}

constexpr int max_threads(int threads = 1024, int = 0, int = 0) { return threads; }

// extern __shared__ outside of a function, where the memory isn't there yet.
template <class T>
struct DynamicShared {
  operator T*() const { return reinterpret_cast<T*>(coc_grid.dynamic_shared); }
};

template <class T>
uint64_t bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "at most 8 bytes a lane");
  uint64_t raw = 0;
  std::memcpy(&raw, static_cast<const void*>(&value), sizeof(T));
  return raw;
}

template <class T>
T shuffle(unsigned mask, T value, int source) {
  uint64_t raw = coc_sync_warp(COC_SHUFFLE, mask, bits(value), source);
  std::memcpy(static_cast<void*>(&value), &raw, sizeof(T));
  return value;
}

inline int lane() { return coc_thread->lane; }
inline int segment(int width) { return lane() & ~(width - 1); }

template <class T, class F>
T reduce(unsigned mask, T value, F combine) {
  T result{};
  bool first = true;
  for (int source = 0; source < 32; ++source) {
    if (!(mask >> source & 1u)) continue;
    T other = shuffle(mask, value, source);
    result = first ? other : combine(result, other);
    first = false;
  }
  return result;
}

template <class T, class F>
T update(T* address, F change) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  static_assert(sizeof(T) == sizeof(Bits));
  auto* raw = reinterpret_cast<Bits*>(address);
  Bits before = __atomic_load_n(raw, __ATOMIC_RELAXED);
  for (;;) {
    T old, next;
    std::memcpy(static_cast<void*>(&old), &before, sizeof(T));
    next = change(old);
    Bits after;
    std::memcpy(&after, static_cast<const void*>(&next), sizeof(T));
    if (__atomic_compare_exchange_n(raw, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
      return old;
  }
}

template <class To, class From>
To as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

}  // namespace coc

// Each kernel is exported as data: what it is called with, and how to call it.
#define COC_EXPORT(symbol, bounds, ...)                                                      \
  extern "C" __attribute__((visibility("default"))) const coc_kernel_t coc_kernel_##symbol = \
      coc::describe(__VA_ARGS__, bounds);

#define threadIdx (coc_thread->index)
#define blockIdx (coc_grid.block)
#define blockDim (coc_grid.block_size)
#define gridDim (coc_grid.grid_size)
#define warpSize 32

// ---- barriers and votes
#define __syncthreads() ((void)coc_sync_block(__LINE__, 0))
#define __syncthreads_count(p) (coc_sync_block(__LINE__, (p) ? 1 : 0).yes)
#define __syncthreads_or(p) (coc_sync_block(__LINE__, (p) ? 1 : 0).yes != 0)
#define __syncthreads_and(p) (coc::all_of(coc_sync_block(__LINE__, (p) ? 1 : 0)))
namespace coc {
inline int all_of(coc_votes_t votes) { return votes.yes == votes.threads; }
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { coc_sync_warp(COC_SYNC, mask, 0, -1); }
static inline unsigned __ballot_sync(unsigned mask, int p) {
  return static_cast<unsigned>(coc_sync_warp(COC_BALLOT, mask, p != 0, -1));
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
template <class T>
inline unsigned __match_any_sync(unsigned mask, T value) {
  return static_cast<unsigned>(coc_sync_warp(COC_MATCH, mask, coc::bits(value), -1));
}
static inline void __threadfence() { coc_fence(); }
static inline void __threadfence_block() { coc_fence(); }
static inline void __threadfence_system() { coc_fence(); }
static inline void __nanosleep(unsigned) {}

// ---- shuffles: the source lanes of the CUDA C++ programming guide
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return coc::shuffle(mask, value, coc::segment(width) | (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  int source = coc::lane() ^ lanes;
  return coc::shuffle(mask, value, source < coc::segment(width) + width ? source : coc::lane());
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int source = coc::lane() - static_cast<int>(delta);
  return coc::shuffle(mask, value, source >= coc::segment(width) ? source : coc::lane());
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  int source = coc::lane() + static_cast<int>(delta);
  return coc::shuffle(mask, value, source < coc::segment(width) + width ? source : coc::lane());
}
#define COC_REDUCE(name, type, expression)                        \
  static inline type __reduce_##name##_sync(unsigned mask, type v) { \
    return coc::reduce(mask, v, [](type a, type b) -> type { return expression; }); \
  }
COC_REDUCE(add, unsigned, a + b)
COC_REDUCE(add, int, a + b)
COC_REDUCE(min, unsigned, a < b ? a : b)
COC_REDUCE(min, int, a < b ? a : b)
COC_REDUCE(max, unsigned, a > b ? a : b)
COC_REDUCE(max, int, a > b ? a : b)
COC_REDUCE(and, unsigned, a & b)
COC_REDUCE(or, unsigned, a | b)
COC_REDUCE(xor, unsigned, a ^ b)
#undef COC_REDUCE

// ---- loads and stores with cache hints
#define COC_LOAD(name) \
  template <class T>   \
  inline T name(const T* address) { return *address; }
COC_LOAD(__ldg)
COC_LOAD(__ldca)
COC_LOAD(__ldcg)
COC_LOAD(__ldcs)
COC_LOAD(__ldcv)
COC_LOAD(__ldlu)
#undef COC_LOAD
#define COC_STORE(name) \
  template <class T>    \
  inline void name(T* address, T value) { *address = value; }
COC_STORE(__stcg)
COC_STORE(__stcs)
COC_STORE(__stwb)
COC_STORE(__stwt)
#undef COC_STORE

// ---- atomics: relaxed, as on the device
template <class T>
struct coc_same { using type = T; };
template <class T>
using coc_same_t = typename coc_same<T>::type;
#define COC_ATOMIC(name, expression)                                               \
  template <class T>                                                               \
  inline T name(T* address, coc_same_t<T> value) {                                 \
    return coc::update(address, [=](T old) -> T { return T(expression); });        \
  }                                                                                \
  template <class T>                                                               \
  inline T name##_block(T* address, coc_same_t<T> value) { return name(address, value); }
COC_ATOMIC(atomicAdd, old + value)
COC_ATOMIC(atomicSub, old - value)
COC_ATOMIC(atomicMax, old > value ? old : value)
COC_ATOMIC(atomicMin, old < value ? old : value)
COC_ATOMIC(atomicExch, value)
COC_ATOMIC(atomicAnd, old & value)
COC_ATOMIC(atomicOr, old | value)
COC_ATOMIC(atomicXor, old ^ value)
COC_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef COC_ATOMIC
template <class T>
inline T atomicCAS(T* address, coc_same_t<T> compare, coc_same_t<T> value) {
  return coc::update(address, [=](T old) { return old == compare ? value : old; });
}

// ---- integers
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
  return result;
}
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<unsigned long long>(a) * b >> 32);
}
static inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<long long>(a) * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
static inline int __mul24(int a, int b) { return a * b; }
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}

// ---- bits of floating-point numbers
static inline float __int_as_float(int x) { return coc::as<float>(x); }
static inline int __float_as_int(float x) { return coc::as<int>(x); }
static inline float __uint_as_float(unsigned x) { return coc::as<float>(x); }
static inline unsigned __float_as_uint(float x) { return coc::as<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return coc::as<double>(x); }
static inline long long __double_as_longlong(double x) { return coc::as<long long>(x); }
static inline int __double2hiint(double x) { return static_cast<int>(coc::as<long long>(x) >> 32); }
static inline int __double2loint(double x) { return static_cast<int>(coc::as<long long>(x)); }
static inline double __hiloint2double(int high, int low) {
  return coc::as<double>(static_cast<long long>(high) << 32 | static_cast<unsigned>(low));
}

// ---- arithmetic. The fast versions are exact here: their error on a GPU is not modelled.
// Macros, where the C library has functions of that name.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float fdividef(float a, float b) { return a / b; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrt(float x) { return rsqrtf(x); }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline double __drcp_rn(double x) { return 1.0 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline int __float2int_rn(float x) { return static_cast<int>(rintf(x)); }
static inline int __float2int_rz(float x) { return static_cast<int>(x); }
static inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
static inline int __float2int_ru(float x) { return static_cast<int>(ceilf(x)); }
static inline int __double2int_rn(double x) { return static_cast<int>(rint(x)); }
static inline int __double2int_rd(double x) { return static_cast<int>(floor(x)); }
static inline float __int2float_rn(int x) { return static_cast<float>(x); }
static inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
static inline float __double2float_rn(double x) { return static_cast<float>(x); }

// CUDA's min and max take any two arithmetic types; of floating-point numbers they are fmin and fmax.
template <class A, class B>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  else return T(a) > T(b) ? T(a) : T(b);
}
template <class A, class B>
constexpr std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>, std::common_type_t<A, B>> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  else return T(a) < T(b) ? T(a) : T(b);
}
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;
