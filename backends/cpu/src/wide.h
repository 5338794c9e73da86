// Positive numbers of any size as integers, exponent and fraction side by side:
//
//     (1 + f) 2^e, 0 <= f < 1   is kept as   2^44 e + 2^44 f
//
// Their order is that of the numbers, so that comparing takes one instruction, and multiplying with
// a power of two is an addition. A number is right to 2^-45. Below 2^-65536, `wide_fine`, digits are
// 2^-28 instead, so that there is room down to 2^-(2^32); what is less is 0. The logarithm of such a
// number has as many right digits as that of others. These numbers are rare, and computed apart.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>

#include "vectors.h"

namespace {

using Wide = std::int64_t;
constexpr int wide_bits = 44;                            // of the fraction
constexpr int spare_bits = Format<double>::fraction_bits - wide_bits;
constexpr Wide wide_fraction = (Wide(1) << wide_bits) - 1;
constexpr Wide wide_fine = -(Wide(1) << 60);
constexpr int coarser_bits = 16, coarse_bits = wide_bits - coarser_bits;
constexpr Wide coarse_fraction = (Wide(1) << coarse_bits) - 1;
// From here on, numbers are fine, and so are those that are at most 2^1000 times as small.
constexpr Wide wide_near = wide_fine + (Wide(1024) << wide_bits);
constexpr Wide wide_lowest = -(Wide(1) << 61);           // all that is less is 0
constexpr Wide wide_zero = -(Wide(1) << 62);             // room for the sum of two
constexpr std::int64_t bits_of_one = std::int64_t(Format<double>::bias) << Format<double>::fraction_bits;
constexpr std::int64_t half_digit = std::int64_t(1) << (spare_bits - 1);

constexpr Wide wide_one = 0;

CTCX_INLINE bool is_zero(Wide w) { return w < wide_lowest; }
CTCX_INLINE Wide exponent_part(Wide w) { return w & ~wide_fraction; }
// Between double and Wide, within double's range.
CTCX_INLINE Wide to_wide(double v) {
  return (std::bit_cast<std::int64_t>(v) - bits_of_one + half_digit) >> spare_bits;
}
CTCX_INLINE double from_wide(Wide w) { return std::bit_cast<double>(w * (1 << spare_bits) + bits_of_one); }

// (1 + f) 2^e, for any Wide but 0.
struct Apart {
  double mantissa;
  std::int64_t exponent;
};
inline Apart apart(Wide w) {
  if (w >= wide_fine) return {from_wide(w & wide_fraction), w >> wide_bits};
  const Wide below = w - wide_fine;
  return {from_wide((below & coarse_fraction) << coarser_bits), (wide_fine >> wide_bits) + (below >> coarse_bits)};
}
inline Wide together(Apart n) {
  const Wide mantissa = to_wide(n.mantissa), exponent = n.exponent + (mantissa >> wide_bits);
  const Wide above = exponent - (wide_fine >> wide_bits), fraction = mantissa & wide_fraction;
  if (above >= 0) return exponent * (wide_fraction + 1) + fraction;
  const Wide w = wide_fine + above * (coarse_fraction + 1) +
                 ((fraction + (1 << (coarser_bits - 1))) >> coarser_bits);
  return is_zero(w) ? wide_zero : w;
}
__attribute__((noinline)) inline Wide far_product(Wide a, Wide b) {
  const Apart x = apart(a), y = apart(b);
  return together({x.mantissa * y.mantissa, x.exponent + y.exponent});
}
__attribute__((noinline)) inline Wide far_sum(Wide a, Wide b) {
  if (is_zero(std::min(a, b))) return std::max(a, b);
  const Apart x = apart(std::max(a, b)), y = apart(std::min(a, b));
  return together({x.mantissa + std::ldexp(y.mantissa, int(std::max(y.exponent - x.exponent, Wide(-1000)))), x.exponent});
}

// The conditions make no branch that a processor can't foresee: zeros are as common as others where
// classes are masked, far numbers are rare.
CTCX_INLINE Wide product(Wide a, Wide b) {
  const bool none = is_zero(std::min(a, b));
  const double mantissas = from_wide(a & wide_fraction) * from_wide(b & wide_fraction);
  const Wide w = to_wide(mantissas) + exponent_part(a) + exponent_part(b);
  if (!none & (w < wide_near)) [[unlikely]] return far_product(a, b);
  return none ? wide_zero : w;
}
// With any less, product(a, b) is less than `least`: (1 + f)(1 + g) < 2^(f + g + 1/4).
CTCX_INLINE Wide least_factor(Wide least, Wide a) {
  return least > wide_near ? least - a - (wide_fraction >> 2) : wide_lowest;
}
// Of a number and a power of two that is fine.
CTCX_INLINE Wide quotient(Wide a, Wide power) {
  const bool none = is_zero(a);
  if (!none & (a < wide_near)) [[unlikely]] return far_product(a, -power);
  return none ? wide_zero : a - power;
}

// Relative to the larger one, what is less than 2^-1000 doesn't count.
CTCX_INLINE Wide sum(Wide a, Wide b) {
  constexpr Wide nothing = -(Wide(1000) << wide_bits);
  const Wide larger = std::max(a, b), base = exponent_part(larger);
  const bool none = is_zero(larger);
  if (!none & (larger < wide_near)) [[unlikely]] return far_sum(a, b);
  const Wide w = to_wide(from_wide(std::max(a - base, nothing)) + from_wide(std::max(b - base, nothing)));
  return none ? wide_zero : w + base;
}

// Writes exp(x - largest) of a row's logits to p, up to a whole vector of T, and returns their sum in
// double: NaN if a logit is NaN or +inf.
template <class T> __attribute__((noinline)) double wide_powers(const T *x, Size classes, T largest, Wide *p) {
  constexpr int step = lanes_of<double>;
  constexpr double rounder = 0x1.8p52, fine = double(wide_fine >> wide_bits);
  constexpr double least = fine + double((wide_lowest - wide_fine) >> coarse_bits);
  Vector<double> total{};
  auto power = [&](Vector<double> logits, Wide *to) __attribute__((always_inline)) {
    // In binary digits. NaN stays NaN.
    const Vector<double> d = greater(splat(least), (logits - splat(double(largest))) * splat(log2_e));
    const Vector<double> whole = d + splat(rounder);
    const Vector<double> mantissa = exp2_of_fraction<double>(d - (whole - splat(rounder)));
    const Integers<double> k = (Integers<double>)whole - (Integers<double>)splat(rounder);
    const Integers<double> fraction =
        ((Integers<double>)mantissa - splat(bits_of_one) + splat(half_digit)) >> spare_bits;
    Integers<double> w = fraction + (k << wide_bits);
    if (any_positive(splat(fine) - d)) {
      const Integers<double> coarse = ((fraction + splat(Wide(1) << (coarser_bits - 1))) >> coarser_bits) +
                                      ((k - splat(wide_fine >> wide_bits)) << coarse_bits) + splat(wide_fine);
      w = d >= splat(fine) ? w : d > splat(least) ? coarse : splat(wide_zero);
    }
    store(to, w);
    total += mantissa * power_of_two<double>(k + splat(std::int64_t(Format<double>::bias)));
  };
  for (Size c = 0; c < classes; c += lanes_of<T>) {
    const Vector<T> logits = c + lanes_of<T> <= classes ? load(x + c) : load_short(x + c, classes - c);
    if constexpr (std::is_same_v<T, double>) {
      power(logits, p + c);
    } else {
      const Doubles d = in_double(logits);
      power(d.low, p + c), power(d.high, p + c + step);
    }
  }
  return sum_of(total);
}

// The sum of exp(x - offset) of a row's logits, none of which is above the offset: NaN or +inf if one is
// NaN or +inf.
template <class T> __attribute__((noinline)) double sum_of_powers(const T *x, Size classes, double offset) {
  constexpr double rounder = 0x1.8p52, least = -1020;  // binary digits: less adds nothing
  Vector<double> total{};
  auto power = [&](Vector<double> logits) __attribute__((always_inline)) {
    const Vector<double> d = greater(splat(least), (logits - splat(offset)) * splat(log2_e));  // NaN stays NaN
    const Vector<double> whole = d + splat(rounder);
    const Integers<double> k = (Integers<double>)whole - (Integers<double>)splat(rounder);
    total += d > splat(least) ? exp2_of_fraction<double>(d - (whole - splat(rounder))) *
                                    power_of_two<double>(k + splat(std::int64_t(Format<double>::bias)))
                              : d - splat(least);
  };
  for (Size c = 0; c < classes; c += lanes_of<T>) {
    const Vector<T> logits = c + lanes_of<T> <= classes ? load(x + c) : load_short(x + c, classes - c);
    if constexpr (std::is_same_v<T, double>) {
      power(logits);
    } else {
      const Doubles d = in_double(logits);
      power(d.low), power(d.high);
    }
  }
  return sum_of(total);
}

}  // namespace
