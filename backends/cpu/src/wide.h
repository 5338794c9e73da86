// Positive numbers of any size as integers, exponent and fraction side by side:
//
//     (1 + f) 2^e, 0 <= f < 1   is kept as   2^44 e + 2^44 f
//
// Their order is that of the numbers, so that comparing takes one instruction, and multiplying with
// a power of two is an addition. A number is right to 2^-45, and down to 2^-2^17; what is less is 0.
#pragma once
#include <bit>

#include "vectors.h"

namespace {

using Wide = std::int64_t;
constexpr int wide_bits = 44;                            // of the fraction
constexpr int spare_bits = Format<double>::fraction_bits - wide_bits;
constexpr Wide wide_fraction = (Wide(1) << wide_bits) - 1;
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

CTCX_INLINE Wide product(Wide a, Wide b) {
  const double mantissas = from_wide(a & wide_fraction) * from_wide(b & wide_fraction);
  const Wide w = to_wide(mantissas) + exponent_part(a) + exponent_part(b);
  return is_zero(w) ? wide_zero : w;
}
// At least product(a, b), if neither is 0: (1 + f)(1 + g) < 2^(f + g + 1/4).
CTCX_INLINE Wide product_at_most(Wide a, Wide b) { return a + b + (wide_fraction >> 2); }

// Relative to the larger one, what is less than 2^-1000 doesn't count.
CTCX_INLINE Wide sum(Wide a, Wide b) {
  constexpr Wide nothing = -(Wide(1000) << wide_bits);
  const Wide base = exponent_part(std::max(a, b));
  const Wide w = to_wide(from_wide(std::max(a - base, nothing)) + from_wide(std::max(b - base, nothing)));
  return is_zero(base) ? wide_zero : w + base;
}

// Writes exp(x - largest) of a row's logits to p, up to a whole vector of T, and returns their sum in
// double: NaN if a logit is NaN or +inf.
template <class T> __attribute__((noinline)) double wide_powers(const T *x, Size classes, T largest, Wide *p) {
  constexpr int step = lanes_of<double>;
  constexpr double rounder = 0x1.8p52, least = double(wide_lowest >> wide_bits);
  Vector<double> total{};
  auto power = [&](Vector<double> logits, Wide *to) __attribute__((always_inline)) {
    // In binary digits. NaN stays NaN.
    const Vector<double> d = greater(splat(least), (logits - splat(double(largest))) * splat(log2_e));
    const Vector<double> whole = d + splat(rounder);
    const Vector<double> mantissa = exp2_of_fraction<double>(d - (whole - splat(rounder)));
    const Integers<double> k = (Integers<double>)whole - (Integers<double>)splat(rounder);
    const Integers<double> fraction =
        ((Integers<double>)mantissa - splat(bits_of_one) + splat(half_digit)) >> spare_bits;
    store(to, d > splat(least) ? fraction + (k << wide_bits) : splat(wide_zero));
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

}  // namespace
