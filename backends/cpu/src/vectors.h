// Vectors as wide as a register of the instruction set, by the vector extensions of GCC and Clang,
// and floating-point numbers taken apart into mantissa and exponent.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define CTCX_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define CTCX_VECTOR_BYTES 32
#else
#define CTCX_VECTOR_BYTES 16
#endif
#define CTCX_INLINE inline __attribute__((always_inline))

// Each instruction set compiles this for itself. Names without linkage keep the linker from taking
// a function that was compiled for another one.
namespace {

using Size = std::int64_t;

// What there is to know about float and double.
template <class T> struct Format;
template <> struct Format<float> {
  using Integer = std::int32_t;
  static constexpr int fraction_bits = 23, bias = 127;
  static constexpr Integer never = -(1 << 29);  // exponent of a probability of 0
  // log2(e), rounded, and what the rounding took.
  static constexpr float log2_e = 1.44269504088896340736f;
  static constexpr float log2_e_rest = float(1.44269504088896340736 - double(log2_e));
  // ln(2) in two parts: a multiple of the first by a whole number up to 2^15 is exact.
  static constexpr float ln_2 = 0.693359375f, ln_2_rest = -2.12194440054690583e-4f;
  // Added to a number, it leaves no room for a fraction: the last bits then hold the number plus
  // the bias of the exponent.
  static constexpr float rounder = 12582912.0f + bias;
  // 2^f for |f| <= 1/2: minimax in the relative error, and exact at 0.
  static constexpr int terms = 7;
  static constexpr double exp2[terms] = {
      1.0, 0.6931471824645996, 0.24022647738456726, 0.05550359934568405, 0.009618505835533142,
      0.0013390807434916496, 0.00015326471475418657};
};
template <> struct Format<double> {
  using Integer = std::int64_t;
  static constexpr int fraction_bits = 52, bias = 1023;
  static constexpr Integer never = -(Integer(1) << 60);
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double log2_e_rest = 2.0355273740931033e-17;
  static constexpr double ln_2 = 0.693359375, ln_2_rest = -2.12194440054690583e-4;
  static constexpr double rounder = 6755399441055744.0 + bias;
  static constexpr int terms = 14;  // Taylor's: ln(2)^i / i!
  static constexpr double exp2[terms] = {
      1.0, 0.69314718055994530942, 0.24022650695910071233, 0.055504108664821579953,
      0.0096181291076284771620, 0.0013333558146428443423, 0.00015403530393381609954,
      1.5252733804059840280e-05, 1.3215486790144309488e-06, 1.0178086009239699728e-07,
      7.0549116208011233299e-09, 4.4455382718708114976e-10, 2.5678435993488205142e-11,
      1.3691488853904128881e-12};
};

template <class T> struct VectorOf {
  static constexpr int lanes = CTCX_VECTOR_BYTES / sizeof(T);
  typedef T Type __attribute__((vector_size(CTCX_VECTOR_BYTES)));
  typedef T Anywhere __attribute__((vector_size(CTCX_VECTOR_BYTES), aligned(alignof(T)), may_alias));
};
template <class T> using Vector = typename VectorOf<T>::Type;
template <class T> using Integer = typename Format<T>::Integer;
template <class T> using Integers = Vector<Integer<T>>;
template <class T> constexpr int lanes_of = VectorOf<T>::lanes;

template <class T> CTCX_INLINE Vector<T> load(const T *p) {
  return *reinterpret_cast<const typename VectorOf<T>::Anywhere *>(p);
}
template <class T> CTCX_INLINE void store(T *p, Vector<T> v) {
  *reinterpret_cast<typename VectorOf<T>::Anywhere *>(p) = v;
}
template <class T> CTCX_INLINE Vector<T> splat(T value) { return value - Vector<T>{}; }
// Of a NaN, `greater(a, b)` and `smaller(a, b)` are b.
template <class V> CTCX_INLINE V greater(V a, V b) { return a > b ? a : b; }
template <class V> CTCX_INLINE V smaller(V a, V b) { return a < b ? a : b; }

// a b + c, rounded once where the instruction set can. The build forbids the compiler to contract
// anything by itself, so that a formula gives the same bits wherever it is used.
#if defined(__AVX512F__)
constexpr bool is_fused = true;
CTCX_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return _mm512_fmadd_ps(a, b, c); }
CTCX_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__AVX2__)
constexpr bool is_fused = true;
CTCX_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return _mm256_fmadd_ps(a, b, c); }
CTCX_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(__aarch64__)
constexpr bool is_fused = true;
CTCX_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return (Vector<float>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
CTCX_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return (Vector<double>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
constexpr bool is_fused = false;
template <class V> CTCX_INLINE V fma(V a, V b, V c) { return a * b + c; }
#endif

namespace by_lane {
template <class T, std::size_t... i>
CTCX_INLINE Vector<T> gather(const T *p, const std::int32_t *at, std::index_sequence<i...>) {
  return Vector<T>{p[at[i]]...};
}
template <class T, std::size_t... i> CTCX_INLINE Vector<T> count(std::index_sequence<i...>) {
  return Vector<T>{T(i)...};
}
template <class T, int from, std::size_t... i>
CTCX_INLINE Vector<T> window(Vector<T> a, Vector<T> b, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, int(from + i)...);
}
}  // namespace by_lane

template <class T> using Lanes = std::make_index_sequence<lanes_of<T>>;

template <class T> CTCX_INLINE Vector<T> gather(const T *p, const std::int32_t *at) {
  return by_lane::gather<T>(p, at, Lanes<T>());
}
// 0, 1, 2, ...
template <class T> CTCX_INLINE Vector<T> counting() { return by_lane::count<T>(Lanes<T>()); }
// A vector's worth of the lanes of a and b, from one on.
template <class T, int from> CTCX_INLINE Vector<T> window(Vector<T> a, Vector<T> b) {
  return by_lane::window<T, from>(a, b, Lanes<T>());
}

// Reductions by halves, in an order that doesn't depend on the compiler.
template <class T, int by, class F> CTCX_INLINE T fold(Vector<T> v, F f) {
  if constexpr (by == 0) return v[0];
  else return fold<T, by / 2>(f(v, window<T, by>(v, v)), f);
}
template <class T> CTCX_INLINE T sum_of(Vector<T> v) {
  return fold<T, lanes_of<T> / 2>(v, [](auto a, auto b) { return a + b; });
}
template <class T> CTCX_INLINE T largest_of(Vector<T> v) {
  return fold<T, lanes_of<T> / 2>(v, [](auto a, auto b) { return greater(a, b); });
}
template <class T> CTCX_INLINE T smallest_of(Vector<T> v) {
  return fold<T, lanes_of<T> / 2>(v, [](auto a, auto b) { return smaller(a, b); });
}

CTCX_INLINE double precise_sum_of(Vector<double> v) { return sum_of<double>(v); }
CTCX_INLINE double precise_sum_of(Vector<float> v) {
  typedef float Part __attribute__((vector_size(CTCX_VECTOR_BYTES / 2)));
  Part low, high;
  std::memcpy(&low, &v, sizeof low);
  std::memcpy(&high, reinterpret_cast<const char *>(&v) + sizeof low, sizeof high);
  return sum_of<double>(__builtin_convertvector(low, Vector<double>) +
                        __builtin_convertvector(high, Vector<double>));
}

template <class T> CTCX_INLINE bool any_positive(Vector<T> v) {
#if defined(__AVX2__) && CTCX_VECTOR_BYTES == 32
  if constexpr (sizeof(T) == 4) return _mm256_movemask_ps(__m256(v > 0)) != 0;
  else return _mm256_movemask_pd(__m256d(v > 0)) != 0;
#else
  return largest_of<T>(v) > 0;
#endif
}

// Numbers taken apart. The exponent of a number >= 0 is the biased one.
template <class T> CTCX_INLINE Integers<T> exponent_of(Vector<T> v) {
  return (Integers<T>)v >> Format<T>::fraction_bits;
}
template <class T> CTCX_INLINE Vector<T> mantissa_of(Vector<T> v) {
  constexpr Integer<T> one = 1;
  constexpr Integer<T> fraction = (one << Format<T>::fraction_bits) - 1;
  constexpr Integer<T> exponent = Integer<T>(Format<T>::bias) << Format<T>::fraction_bits;
  return (Vector<T>)(((Integers<T>)v & fraction) | exponent);
}
// 2^(biased - bias), and 0 from the smallest exponent down.
template <class T> CTCX_INLINE Vector<T> power_of_two(Integers<T> biased) {
  return (Vector<T>)(greater(biased, Integers<T>{}) << Format<T>::fraction_bits);
}
template <class T> CTCX_INLINE Vector<T> exp2_of_fraction(Vector<T> f) {
  Vector<T> result = splat<T>(T(Format<T>::exp2[Format<T>::terms - 1]));
#pragma GCC unroll 16
  for (int i = Format<T>::terms - 2; i >= 0; i--) result = fma(result, f, splat<T>(T(Format<T>::exp2[i])));
  return result;
}

}  // namespace
