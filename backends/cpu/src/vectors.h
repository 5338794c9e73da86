// Vectors as wide as a register of the instruction set, by the vector extensions of GCC and Clang,
// and floating-point numbers taken apart into mantissa and exponent.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(CTCX_VECTOR_BYTES)  // by a test: the source for one instruction set, compiled for another
#elif defined(__AVX512F__)
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
#if defined(__AVX512F__)  // of which GCC makes two instructions, where one number is a constant
CTCX_INLINE Vector<float> greater(Vector<float> a, Vector<float> b) { return _mm512_max_ps(a, b); }
CTCX_INLINE Vector<double> greater(Vector<double> a, Vector<double> b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__) && CTCX_VECTOR_BYTES == 32
CTCX_INLINE Vector<float> greater(Vector<float> a, Vector<float> b) { return _mm256_max_ps(a, b); }
CTCX_INLINE Vector<double> greater(Vector<double> a, Vector<double> b) { return _mm256_max_pd(a, b); }
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
template <class V> struct Halves {
  V low, high;
};
template <class V, std::size_t... i> CTCX_INLINE auto halves(V v, std::index_sequence<i...>) {
  auto low = __builtin_shufflevector(v, v, int(i)...);
  return Halves<decltype(low)>{low, __builtin_shufflevector(v, v, int(sizeof...(i) + i)...)};
}
template <class V, std::size_t... i> CTCX_INLINE auto joined(V low, V high, std::index_sequence<i...>) {
  return __builtin_shufflevector(low, high, int(i)...);
}
template <class V> constexpr int lanes_in = sizeof(V) / sizeof(V{}[0]);
}  // namespace by_lane

template <class T> using Lanes = std::make_index_sequence<lanes_of<T>>;

template <class T> CTCX_INLINE Vector<T> gather(const T *p, const std::int32_t *at) {
  return by_lane::gather<T>(p, at, Lanes<T>());
}
// 0, 1, 2, ...
template <class T> CTCX_INLINE Vector<T> counting() { return by_lane::count<T>(Lanes<T>()); }
// A vector's worth of the lanes of a and b, from one on.
template <class T, int from> CTCX_INLINE Vector<T> window(Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)  // GCC 12 takes another instruction, which needs copies
  if constexpr (sizeof(T) == 4) return (Vector<T>)_mm512_maskz_alignr_epi32(0xffff, (__m512i)b, (__m512i)a, from);
  else return (Vector<T>)_mm512_maskz_alignr_epi64(0xff, (__m512i)b, (__m512i)a, from);
#endif
  return by_lane::window<T, from>(a, b, Lanes<T>());
}

template <class V> CTCX_INLINE auto halves(V v) {
  return by_lane::halves(v, std::make_index_sequence<by_lane::lanes_in<V> / 2>());
}
template <class V> CTCX_INLINE auto joined(V low, V high) {
  return by_lane::joined(low, high, std::make_index_sequence<2 * by_lane::lanes_in<V>>());
}

// Reductions by halves, in an order that doesn't depend on the compiler.
template <class V, class F> CTCX_INLINE auto fold(V v, F f) {
  if constexpr (by_lane::lanes_in<V> == 2) {
    return f(v[0], v[1]);
  } else {
    auto [low, high] = halves(v);
    return fold(f(low, high), f);
  }
}
template <class V> CTCX_INLINE auto sum_of(V v) {
  return fold(v, [](auto a, auto b) { return a + b; });
}
template <class V> CTCX_INLINE auto largest_of(V v) {
  return fold(v, [](auto a, auto b) { return greater(a, b); });
}

// What the vector extensions can't say, or GCC 12 doesn't make the right instructions of:
//
// - fma: a b + c, rounded once where the instruction set can. The build forbids the compiler to
//   contract anything by itself, so that a formula gives the same bits wherever it is used.
// - any_positive: whether a lane is.
// - greater_bits: which lanes of a are greater than those of b, of 8 bytes, in the lowest bits.
// - compress: writes the lanes whose bits are set, of 8 bytes, one after the other, and something after
//   them, up to a whole vector; returns how many they are.
// - in_double: the halves of a vector of floats; widened: their sum.
// - Table: does what gather does, for `most` numbers at most: registers hold them, and lanes are
//   picked from these.
template <class T> struct Table {
  static constexpr Size most = 0;
  const T *p;
  CTCX_INLINE Table(const T *numbers, Size) : p(numbers) {}
  CTCX_INLINE Vector<T> operator()(const std::int32_t *at) const { return gather(p, at); }
};

struct Doubles {
  Vector<double> low, high;
};

#if defined(__AVX512F__)
constexpr bool is_fused = true;
CTCX_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return _mm512_fmadd_ps(a, b, c); }
CTCX_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) { return _mm512_fmadd_pd(a, b, c); }
CTCX_INLINE bool any_positive(Vector<float> v) { return _mm512_cmp_ps_mask(v, __m512{}, _CMP_GT_OQ) != 0; }
CTCX_INLINE bool any_positive(Vector<double> v) { return _mm512_cmp_pd_mask(v, __m512d{}, _CMP_GT_OQ) != 0; }
CTCX_INLINE unsigned greater_bits(Vector<double> a, Vector<double> b) { return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ); }
CTCX_INLINE unsigned greater_bits(Integers<double> a, Integers<double> b) { return _mm512_cmpgt_epi64_mask((__m512i)a, (__m512i)b); }
CTCX_INLINE Size compress(Vector<double> v, unsigned bits, double *to) {
  store(to, Vector<double>(_mm512_maskz_compress_pd(__mmask8(bits), v)));
  return __builtin_popcount(bits);
}
CTCX_INLINE Size compress(Integers<double> v, unsigned bits, std::int64_t *to) {
  store(to, Integers<double>(_mm512_maskz_compress_epi64(__mmask8(bits), (__m512i)v)));
  return __builtin_popcount(bits);
}
CTCX_INLINE Doubles in_double(Vector<float> v) {
  auto [low, high] = halves(v);  // with a mask, since GCC 12 warns of the intrinsic without one
  return {_mm512_maskz_cvtps_pd(0xff, low), _mm512_maskz_cvtps_pd(0xff, high)};
}
template <> class Table<float> {
 public:
  static constexpr Size most = 32;
  CTCX_INLINE Table(const float *p, Size count)
      : low_(_mm512_maskz_loadu_ps(first_lanes(count), p)),
        high_(_mm512_maskz_loadu_ps(first_lanes(count - 16), p + 16)) {}
  CTCX_INLINE Vector<float> operator()(const std::int32_t *at) const {
    return _mm512_permutex2var_ps(low_, _mm512_loadu_si512(at), high_);
  }

 private:
  static CTCX_INLINE __mmask16 first_lanes(Size count) {
    return __mmask16((1u << std::clamp(count, Size(0), Size(16))) - 1);
  }
  __m512 low_, high_;
};
#elif defined(__AVX2__) && CTCX_VECTOR_BYTES == 32
constexpr bool is_fused = true;
CTCX_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) { return _mm256_fmadd_ps(a, b, c); }
CTCX_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) { return _mm256_fmadd_pd(a, b, c); }
CTCX_INLINE bool any_positive(Vector<float> v) { return _mm256_movemask_ps((__m256)(v > 0)) != 0; }
CTCX_INLINE bool any_positive(Vector<double> v) { return _mm256_movemask_pd((__m256d)(v > 0)) != 0; }
template <class V> CTCX_INLINE unsigned greater_bits(V a, V b) { return unsigned(_mm256_movemask_pd((__m256d)(a > b))); }
CTCX_INLINE Doubles in_double(Vector<float> v) {
  auto [low, high] = halves(v);
  return {_mm256_cvtps_pd(low), _mm256_cvtps_pd(high)};
}
template <> class Table<float> {
 public:
  static constexpr Size most = 32;
  CTCX_INLINE Table(const float *p, Size count) {
    for (int i = 0; i < 4; i++, count -= 8, p += 8)
      v_[i] = _mm256_maskload_ps(p, (__m256i)(counting<std::int32_t>() < splat(std::int32_t(count))));
  }
  CTCX_INLINE Vector<float> operator()(const std::int32_t *at) const {
    const __m256i lanes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
    const __m256 with_8 = (__m256)(lanes << 28), with_16 = (__m256)(lanes << 27);  // to the sign
    auto from = [&](int i) { return _mm256_permutevar8x32_ps(v_[i], lanes); };
    return _mm256_blendv_ps(_mm256_blendv_ps(from(0), from(1), with_8),
                            _mm256_blendv_ps(from(2), from(3), with_8), with_16);
  }

 private:
  __m256 v_[4];
};
#else
#if defined(__AVX2__)  // vectors of two registers
constexpr bool is_fused = true;
CTCX_INLINE auto fma_of_half(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
CTCX_INLINE auto fma_of_half(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
template <class V> CTCX_INLINE V fma(V a, V b, V c) {
  auto [a_low, a_high] = halves(a);
  auto [b_low, b_high] = halves(b);
  auto [c_low, c_high] = halves(c);
  return joined(fma_of_half(a_low, b_low, c_low), fma_of_half(a_high, b_high, c_high));
}
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
template <class V> CTCX_INLINE bool any_positive(V v) { return largest_of(v) > 0; }
template <class V> CTCX_INLINE unsigned greater_bits(V a, V b) {
  const Integers<double> bits = splat<std::int64_t>(1) << counting<std::int64_t>();
  return unsigned(fold((a > b) & bits, [](auto a, auto b) { return a | b; }));
}
CTCX_INLINE Doubles in_double(Vector<float> v) {
  auto [low, high] = halves(v);
  return {__builtin_convertvector(low, Vector<double>), __builtin_convertvector(high, Vector<double>)};
}
#endif
#if !defined(__AVX512F__)
template <class V, class T> CTCX_INLINE Size compress(V v, unsigned bits, T *to) {
  Size count = 0;
  for (int i = 0; i < lanes_of<T>; i++) to[count] = v[i], count += bits >> i & 1;
  return count;
}
#endif
CTCX_INLINE Vector<double> widened(Vector<float> v) {
  auto [low, high] = in_double(v);
  return low + high;
}
CTCX_INLINE Vector<double> widened(Vector<double> v) { return v; }

// Numbers taken apart. The exponent of a number >= 0 is the biased one.
template <class T> CTCX_INLINE Integers<T> exponent_of(Vector<T> v) {
  return (Integers<T>)((Vector<std::make_unsigned_t<Integer<T>>>)v >> Format<T>::fraction_bits);
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
