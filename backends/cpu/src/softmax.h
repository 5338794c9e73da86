// The softmax of rows of logits, computed while a row is in cache:
//
//     p_c = 2^(x_c log2(e) - m) / s,    s = sum over c of 2^(x_c log2(e) - m)
//
// where m is the largest exponent of the row, rounded to a whole number, and a small shift that
// differs from row to row, so that rows which are equal aren't rounded alike. A power is taken apart
// into 2^k 2^f exactly: k is whole, and f is rounded once, however large x is (Cody and Waite,
// Software Manual for the Elementary Functions, 1980, chapter 6).
#pragma once
#include <type_traits>

#include "element.h"
#include "vectors.h"

namespace {

constexpr double log2_e = 1.44269504088896340736;

// How a row was divided: its probabilities are 2^((x - offset) log2(e) - m) times `inverse`, which
// is 0 where all classes are masked.
struct Divisor {
  double offset, m, inverse;
};

// Rows of which |m| is larger have their largest logit taken off first.
constexpr double most_shifted = is_fused ? 1 << 19 : 512;

// The first frames of a half, which are too few for equal rounding errors to add up. They are taken
// as they are, so that a short path that is certain has a loss of exactly 0.
constexpr Size few_frames = 64;

// The shift of a row, within 1/32.
CTCX_INLINE double shift_of_row(Size t) {
  if (t < few_frames) return 0;
  return double(std::int32_t(std::uint32_t(t) * 2246822519u) >> 16) * 0x1p-20;
}

// 2^(x log2(e) - m - shift), and 0 from 2^-127 down (2^-1023 in double). NaN stays NaN.
template <class T> struct Power {
  Vector<T> rounder, shift, lowest;
  CTCX_INLINE Power(T m, T shift)
      : rounder(splat<T>(Format<T>::rounder - m)),
        shift(splat<T>(shift)),
        lowest(splat<T>((m - T(Format<T>::bias)) * T(1 / log2_e))) {}
  CTCX_INLINE Vector<T> operator()(Vector<T> x) const {
    const Vector<T> scale = splat<T>(Format<T>::log2_e);
    x = greater(lowest, x);
    Vector<T> whole = fma(x, scale, rounder), fraction;
    if constexpr (is_fused) {
      fraction = fma(x, scale, rounder - whole);
      fraction = fma(x, splat<T>(Format<T>::log2_e_rest), fraction);
    } else {
      Vector<T> k = whole - rounder;
      fraction = ((x - k * Format<T>::ln_2) - k * Format<T>::ln_2_rest) * Format<T>::log2_e;
    }
    return exp2_of_fraction<T>(fraction - shift) *
           (Vector<T>)((Integers<T>)whole << Format<T>::fraction_bits);
  }
};

// The last vector of a row ends where the row ends and overlaps the one before it, so that no
// vector needs a mask. Only its last lanes are new; rows shorter than a vector go by way of a copy.
template <class T> CTCX_INLINE Vector<T> load_short(const T *x, Size classes) {
  T copy[lanes_of<T>];
  for (int i = 0; i < lanes_of<T>; i++)
    copy[i] = i < classes ? x[i] : -std::numeric_limits<T>::infinity();
  return load(copy);
}
template <class T> CTCX_INLINE void store_short(T *p, Vector<T> v, Size classes) {
  for (int i = 0; i < lanes_of<T>; i++)
    if (i < classes) p[i] = v[i];
}
template <class T> CTCX_INLINE Vector<T> last_lanes(Vector<T> v, Size count) {
  return counting<Integer<T>>() >= splat<Integer<T>>(Integer<T>(lanes_of<T> - count)) ? v
                                                                                       : Vector<T>{};
}


// Writes the powers to p, which may be x, and returns their sum. Meanwhile memory fetches the row
// `ahead`, and the row `cleared`, if any, is set to 0: for both it would else have to be waited.
template <class T>
CTCX_INLINE double powers_of_row(const T *x, T *p, Size classes, T m, T shift, const T *ahead, T *cleared) {
  constexpr int step = lanes_of<T>;
  const Power<T> power(m, shift);
  if (classes < step) {
    if (cleared) std::fill_n(cleared, classes, T(0));
    Vector<T> v = power(load_short(x, classes));
    store_short(p, v, classes);
    return sum_of(widened(v));
  }
  const Vector<T> tail = load(x + classes - step);  // read before p overwrites it
  Vector<double> sum{};
  Size i = 0;
  // A few vectors at a time: beside the largest power, about 1, float would lose many small ones.
  while (i + 4 * step <= classes) {
    Vector<T> a{}, b{}, c{}, d{};
    for (int k = 0; k < 4 && i + 4 * step <= classes; k++, i += 4 * step) {
      for (int byte = 0; byte < 4 * CTCX_VECTOR_BYTES; byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(ahead + i) + byte);
      Vector<T> v = power(load(x + i)), w = power(load(x + i + step));
      Vector<T> y = power(load(x + i + 2 * step)), z = power(load(x + i + 3 * step));
      store(p + i, v), store(p + i + step, w);
      store(p + i + 2 * step, y), store(p + i + 3 * step, z);
      if (cleared)
        for (int j = 0; j < 4 * step; j += step) store(cleared + i + j, Vector<T>{});
      a += v, b += w, c += y, d += z;
    }
    sum += widened((a + b) + (c + d));
  }
  if (cleared) std::fill_n(cleared + i, classes - i, T(0));
  Vector<T> rest{};
  for (; i + step <= classes; i += step) {
    Vector<T> v = power(load(x + i));
    store(p + i, v);
    rest += v;
  }
  if (i < classes) {
    Vector<T> v = power(tail);
    store(p + classes - step, v);
    rest += last_lanes<T>(v, classes - i);
  }
  return sum_of(sum + widened(rest));
}

// Multiplies by a factor, and `twice` by another one after that.
template <class T, bool twice = false>
CTCX_INLINE void scale_row(T *p, Size classes, T factor, T then = 1) {
  constexpr int step = lanes_of<T>;
  if (classes < step) {
    for (Size i = 0; i < classes; i++) p[i] = twice ? p[i] * factor * then : p[i] * factor;
    return;
  }
  const Vector<T> factors = splat<T>(factor), thens = splat<T>(then);
  auto scaled = [&](Vector<T> v) { return twice ? v * factors * thens : v * factors; };
  const Vector<T> tail = load(p + classes - step);
  Size i = 0;
  for (; i + 4 * step <= classes; i += 4 * step)
    for (int k = 0; k < 4 * step; k += step) store(p + i + k, scaled(load(p + i + k)));
  for (; i + step <= classes; i += step) store(p + i, scaled(load(p + i)));
  store(p + classes - step, scaled(tail));
}

// What is to become of a row's probabilities: they are multiplied by a weight, after those of some
// classes have been kept as they were.
template <class T> struct Weighing {
  T weight;
  const std::int32_t *listed;
  Size count;
  T *unweighted;
  CTCX_INLINE void keep(const T *p, T inverse) const {
    for (Size i = 0; i < count; i++) unweighted[i] = p[listed[i]] * inverse;
  }
};

// From powers to probabilities.
template <class T> CTCX_INLINE void divide_row(T *p, Size classes, T inverse, const Weighing<T> *weighing) {
  if (!weighing) return scale_row(p, classes, inverse);
  weighing->keep(p, inverse);
  scale_row<T, true>(p, classes, inverse, weighing->weight);
}

template <class T> CTCX_INLINE T largest_of_row(const T *x, Size classes) {
  constexpr int step = lanes_of<T>;
  if (classes < step) return largest_of(load_short(x, classes));
  Vector<T> a = load(x + classes - step), b = a, c = a, d = a;
  Size i = 0;
  for (; i + 4 * step <= classes; i += 4 * step) {
    a = greater(a, load(x + i)), b = greater(b, load(x + i + step));
    c = greater(c, load(x + i + 2 * step)), d = greater(d, load(x + i + 3 * step));
  }
  for (; i + step <= classes; i += step) a = greater(a, load(x + i));
  return largest_of(greater(greater(a, b), greater(c, d)));
}

// Keeps how a row was divided, and returns its excess: what rounding 1 / s made of 1.
CTCX_INLINE double note(Divisor &divisor, double offset, double m, double s, double inverse) {
  divisor = {offset, m, inverse};
  return s * inverse - 1;
}

// A row that is all masked, has a NaN or +inf in it, or is very far from 0.
template <class T>
__attribute__((noinline)) double unusual_row(const T *x, T *p, Size classes, Divisor &divisor, double shift,
                                            T *cleared, const Weighing<T> *weighing) {
  T largest = largest_of_row(x, classes);
  divisor = {0, 0, 0};
  if (largest == -std::numeric_limits<T>::infinity()) {
    const double sum = powers_of_row<T>(x, p, classes, 0, 0, x, cleared);  // zeros; or there is a NaN
    if (weighing) weighing->keep(p, 1);
    return sum;
  }
  if (!(largest < std::numeric_limits<T>::infinity())) return std::nan("");
  for (Size c = 0; c < classes; c++) p[c] = x[c] - largest;
  double s = powers_of_row<T>(p, p, classes, 0, T(shift), x, cleared);
  T inverse = T(1 / s);
  divide_row(p, classes, inverse, weighing);
  return note(divisor, largest, shift, s, inverse);
}

// A row of k vectors or fewer, and at least one, stays in the registers.
template <class T, int k>
CTCX_INLINE double narrow_row(const T *x, T *p, Size classes, Divisor &divisor, double shift,
                              const T *, T *cleared, const Weighing<T> *weighing) {
  constexpr int step = lanes_of<T>;
  Vector<T> v[k];
  for (int i = 0; i < k - 1; i++) v[i] = load(x + i * step);
  v[k - 1] = load(x + classes - step);
  Vector<T> top = v[0];
  for (int i = 1; i < k; i++) top = greater(top, v[i]);
  double m = std::nearbyint(double(largest_of(top)) * log2_e);
  if (!(std::fabs(m) <= most_shifted)) return unusual_row(x, p, classes, divisor, shift, cleared, weighing);
  const Power<T> power{T(m), T(shift)};
  for (int i = 0; i < k; i++) v[i] = power(v[i]);
  if (cleared) {
    for (int i = 0; i < k - 1; i++) store(cleared + i * step, Vector<T>{});
    store(cleared + classes - step, Vector<T>{});
  }
  Vector<T> sum = last_lanes<T>(v[k - 1], classes - (k - 1) * step);
  for (int i = 0; i < k - 1; i++) sum += v[i];
  double s = sum_of(widened(sum));
  T inverse = T(1 / s);
  const Vector<T> factors = splat<T>(inverse);
  for (int i = 0; i < k; i++) v[i] *= factors;
  auto write = [&] {
    for (int i = 0; i < k - 1; i++) store(p + i * step, v[i]);
    store(p + classes - step, v[k - 1]);
  };
  write();
  if (weighing) {
    weighing->keep(p, 1);
    for (int i = 0; i < k; i++) v[i] *= splat<T>(weighing->weight);
    write();
  }
  return note(divisor, 0, m + shift, s, inverse);
}

template <class T>
CTCX_INLINE double wide_row(const T *x, T *p, Size classes, Divisor &divisor, double shift,
                            const T *ahead, T *cleared, const Weighing<T> *weighing) {
  double m = std::nearbyint(double(largest_of_row(x, classes)) * log2_e);
  if (!(std::fabs(m) <= most_shifted)) return unusual_row(x, p, classes, divisor, shift, cleared, weighing);
  double s = powers_of_row<T>(x, p, classes, T(m), T(shift), ahead, cleared);
  T inverse = T(1 / s);
  divide_row(p, classes, inverse, weighing);
  return note(divisor, 0, m + shift, s, inverse);
}

// The softmax of rows: logits x and probabilities p, with the elements from one row to the next. The
// first one is frame `frame`, and the frames go up or down as the divisors do. The rows `cleared`,
// unless null, are set to 0. `weighing`, unless null, has the row of the first one.
// Returns the sum of the excesses, which is not finite if a logit is NaN or +inf. It is a multiple
// of half the last digit of 1.0 and small, so such numbers add up to the same in any order.
template <class X, class T = typename ComputedIn<X>::Type>
__attribute__((noinline)) double softmax_of_rows(const X *x, Size x_row, T *p, Size p_row,
                                                 Size rows, Size classes, Divisor *divisors, Size frame,
                                                 Size divisors_row, T *cleared, Size cleared_row,
                                                 const Weighing<T> *weighing, Size unweighted_row) {
  constexpr int step = lanes_of<T>;
  auto each = [&](auto softmax) {
    double excess = 0;
    for (Size t = 0; t < rows; t++) {
      const T *from, *ahead;
      if constexpr (std::is_same_v<X, T>) {
        from = x + t * x_row;
        ahead = t + 1 < rows ? from + x_row : from;
      } else {
        ahead = from = p + t * p_row;
        for (Size c = 0; c < classes; c++) p[t * p_row + c] = widen(x[t * x_row + c]);
      }
      Weighing<T> of_row{};
      if (weighing) of_row = *weighing, of_row.unweighted += t * unweighted_row;
      excess += softmax(from, p + t * p_row, classes, divisors[t * divisors_row],
                        shift_of_row(frame + t * divisors_row), ahead,
                        cleared ? cleared + t * cleared_row : nullptr, weighing ? &of_row : nullptr);
    }
    return excess;
  };
  auto narrow_rows = [&](auto vectors) {
    return each([](auto &&...row) __attribute__((always_inline)) { return narrow_row<T, decltype(vectors)::value>(row...); });
  };
  if (classes < step || classes > 4 * step)
    return each([](auto &&...row) __attribute__((always_inline)) { return wide_row<T>(row...); });
  if (classes == step) return narrow_rows(std::integral_constant<int, 1>());
  if (classes <= 2 * step) return narrow_rows(std::integral_constant<int, 2>());
  if (classes <= 3 * step) return narrow_rows(std::integral_constant<int, 3>());
  return narrow_rows(std::integral_constant<int, 4>());
}

// The first class with that logit, or -1 if there is none.
template <class T> CTCX_INLINE Size first_equal(const T *x, Size classes, T logit) {
  constexpr int step = lanes_of<T>;
  Size c = 0;
  for (; c + step <= classes; c += step) {
    const Vector<T> equal = load(x + c) == splat<T>(logit) ? splat<T>(1) : Vector<T>{};
    if (any_positive(equal)) break;
  }
  for (; c < classes; c++)
    if (x[c] == logit) return c;
  return -1;
}

// The largest logit of a row, the first class that has it, and the sum of the exponentials of all other
// classes relative to it: for a nearly certain class, a small number with all its digits. Where all
// classes are masked they are 0, -1 and 0. The sum is NaN if a logit is NaN or +inf.
template <class T> struct Spread {
  T largest;
  Size first;
  double others;
  double sum() const { return first < 0 ? others : 1 + others; }
  // log1p takes longer: the quotient makes up for the digits that the sum lost.
  double log_sum() const {
    const double all = 1 + others;
    return all == 1 ? others : std::log(all) * (others / (all - 1));
  }
};
// Meanwhile memory fetches the row `ahead`. Powers are added in double, of which the result is the same
// for vectors of any width, but for the last digits.
template <class T> __attribute__((noinline)) Spread<T> spread_of_row(const T *x, Size classes, const T *ahead) {
  constexpr int step = lanes_of<T>;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  T largest = largest_of_row(x, classes);
  if (largest == infinity) return {largest, -1, std::nan("")};
  if (largest == -infinity) largest = 0;  // there may be a NaN yet
  const Size first = first_equal(x, classes, largest);
  const Power<T> power(T(0), T(0));
  const Vector<T> offset = splat<T>(largest);
  auto others = [&](Size at, Vector<T> v) __attribute__((always_inline)) {
    const Integers<T> is_first = counting<Integer<T>>() == splat(Integer<T>(first - at));
    return is_first ? Vector<T>{} : power(v - offset);
  };
  Vector<double> sum{};
  if (classes < step) {
    sum = widened(others(0, load_short(x, classes)));
  } else {
    Size i = 0;
    for (; i + 4 * step <= classes; i += 4 * step) {
      for (int byte = 0; byte < 4 * CTCX_VECTOR_BYTES; byte += 64)
        __builtin_prefetch(reinterpret_cast<const char *>(ahead + i) + byte);
      if (i <= first && first < i + 4 * step) {
        for (Size k = i; k < i + 4 * step; k += step) sum += widened(others(k, load(x + k)));
      } else {
        for (Size k = i; k < i + 4 * step; k += step) sum += widened(power(load(x + k) - offset));
      }
    }
    for (; i + step <= classes; i += step) sum += widened(others(i, load(x + i)));
    if (i < classes) {
      const Size last = classes - step;
      sum += widened(last_lanes<T>(others(last, load(x + last)), classes - i));
    }
  }
  return {largest, first, sum_of(sum)};
}

// A row of logits in the type that they are computed in: itself, or a copy.
template <class X, class T> CTCX_INLINE const T *computed_row(const X *x, Size classes, T *copy) {
  if constexpr (std::is_same_v<X, T>) {
    return x;
  } else {
    for (Size c = 0; c < classes; c++) copy[c] = widen(x[c]);
    return copy;
  }
}

// Whether a row has a NaN or +inf.
template <class X> bool has_nan_or_inf(const X *x, Size classes) {
  bool fine = true;
  for (Size c = 0; c < classes; c++)
    fine &= widen(x[c]) < std::numeric_limits<double>::infinity();
  return !fine;
}

}  // namespace
