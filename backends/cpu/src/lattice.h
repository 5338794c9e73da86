// One frame of the recursion, for all states of a sequence.
//
// With b_i the blank before label i, l_i the label, p the emission probabilities (Graves et al.
// 2006, equations 6 to 8, blanks and labels apart):
//
//     b_i <- (b_i + l_(i-1)) p_blank
//     l_i <- (l_i + b_i + [label i differs from label i-1] l_(i-1)) p_(label i)
//
// A probability is m 2^e, with the mantissa m in [1, 2) in one array and the whole exponent e in
// another, so that nothing underflows. A sum takes the largest exponent of its terms, and scales
// them by powers of two that are made by shifts. There is no logarithm and no exponential.
#pragma once
#include <algorithm>

#include "vectors.h"

namespace {

// Where numbers lie: a mantissa and an exponent each.
template <class T> struct Row {
  T *m;
  Integer<T> *e;
  CTCX_INLINE Row at(Size k) const { return {m + k, e + k}; }
};

template <class T> struct Number {
  Vector<T> m;
  Integers<T> e;
};
template <class T> CTCX_INLINE Number<T> zero() {
  return {splat<T>(1), splat<Integer<T>>(Format<T>::never)};
}
template <class T> CTCX_INLINE Number<T> get(Row<T> row, Size k) {
  return {load(row.m + k), load(row.e + k)};
}
template <class T> CTCX_INLINE void put(Row<T> row, Size k, Number<T> n) {
  store(row.m + k, n.m), store(row.e + k, n.e);
}
// The numbers one place before those of b; a stands before b.
template <class T> CTCX_INLINE Number<T> before(Number<T> a, Number<T> b) {
  constexpr int last = lanes_of<T> - 1;
  return {window<T, last>(a.m, b.m), window<Integer<T>, last>(a.e, b.e)};
}
// The numbers one place after those of a; b stands after a.
template <class T> CTCX_INLINE Number<T> after(Number<T> a, Number<T> b) {
  return {window<T, 1>(a.m, b.m), window<Integer<T>, 1>(a.e, b.e)};
}

// A state row has `width` blanks and then `width` labels. Sets the vectors first to last - 1 to 0.
template <class T> CTCX_INLINE void clear(Row<T> row, Size width, Size first, Size last) {
  for (Size k = first * lanes_of<T>; k < last * lanes_of<T>; k += lanes_of<T>)
    put(row, k, zero<T>()), put(row, k + width, zero<T>());
}

// Stores v.m 2^(v.e + bias + more), taken apart. `more` is 0 unless `apart`.
template <class T, bool apart>
CTCX_INLINE void put_product(Row<T> row, Size k, Number<T> v, Integers<T> more) {
  Integers<T> e = v.e + exponent_of<T>(v.m);
  if constexpr (apart) e = greater(e + more, splat<Integer<T>>(Format<T>::never));
  put<T>(row, k, {mantissa_of<T>(v.m), e});
}

// Sums v as v.m 2^(v.e + bias), the form that put_product takes.
template <class T> CTCX_INLINE Number<T> sum(Number<T> a, Number<T> b) {
  Integers<T> low = greater(a.e, b.e) - Integer<T>(Format<T>::bias);
  return {fma(a.m, power_of_two<T>(a.e - low), b.m * power_of_two<T>(b.e - low)), low};
}
template <class T> CTCX_INLINE Number<T> sum(Number<T> a, Number<T> b, Number<T> c) {
  Integers<T> low = greater(greater(a.e, b.e), c.e) - Integer<T>(Format<T>::bias);
  Vector<T> rest = fma(b.m, power_of_two<T>(b.e - low), c.m * power_of_two<T>(c.e - low));
  return {fma(a.m, power_of_two<T>(a.e - low), rest), low};
}

// Emission probabilities of a frame. Exponents are there only where `apart`; else they are 0.
template <class T> struct Emission {
  Row<T> labels;  // (width)
  Row<T> blank;   // (1)
};

// Alphas of a frame from those of the frame before, for the vectors first to last - 1. `skip` is
// added to the exponent of label i-1 on its way to label i: 0, or `never` where they are equal.
template <class T, bool apart>
CTCX_INLINE void forward_frame(Row<T> old, Row<T> now, Size width, Size first, Size last,
                               const Integer<T> *skip, Emission<T> emission) {
  constexpr int step = lanes_of<T>;
  Vector<T> p_blank = splat<T>(*emission.blank.m);
  Integers<T> e_blank{}, e_label{};
  if constexpr (apart) e_blank = splat<Integer<T>>(*emission.blank.e);
  Number<T> labels_before = zero<T>();
  for (Size k = first * step; k < last * step; k += step) {
    Number<T> b = get(old, k), l = get(old, width + k), previous = before(labels_before, l);
    labels_before = l;
    Number<T> to_blank = sum(b, previous);
    to_blank.m *= p_blank;
    put_product<T, apart>(now, k, to_blank, e_blank);
    previous.e += load(skip + k);
    Number<T> to_label = sum(b, l, previous);
    to_label.m *= load(emission.labels.m + k);
    if constexpr (apart) e_label = load(emission.labels.e + k);
    put_product<T, apart>(now, width + k, to_label, e_label);
  }
  clear(now, width, last, std::min(last + 1, width / step));
}

// What leaves each state towards the end of the sequence, as sums: to the blank k and label k.
template <class T> struct Outflow {
  Number<T> blank, label;
};
// `b`, `l`: betas after the emission; `next_b`, `next_l`: those of the vector behind. `skip` is
// added to the exponent of label i+1 on its way to label i.
template <class T>
CTCX_INLINE Outflow<T> outflow(Number<T> b, Number<T> l, Number<T> next_b, Number<T> next_l,
                               const Integer<T> *skip) {
  Number<T> skipped = after(l, next_l);
  skipped.e += load(skip);
  return {sum(b, l), sum(after(b, next_b), l, skipped)};
}

// The vectors whose states still count, and the sum of the occupancies of the blanks.
struct Band {
  double blanks;
  Size lowest, highest;
};

// The likelihood v 2^e of a sequence, where alphas and betas meet.
struct Likelihood {
  double v;
  Size e;
};

// Betas of a frame from those of the frame behind it, and the occupancies: alpha beta / likelihood,
// with beta before the emission (Graves et al. 2006, equation 14). `whole` is the exponent of the
// likelihood, `scale` the reciprocal of its v. Those of single blanks are written if `each_blank`.
template <class T, bool apart, bool each_blank>
CTCX_INLINE Band backward_frame(Row<T> old, Row<T> now, Size width, Size first, Size last,
                                const Integer<T> *skip, Emission<T> emission, Row<T> alpha,
                                T *occupancy, T *blank_occupancy, double scale, Integer<T> whole) {
  constexpr int step = lanes_of<T>;
  Vector<T> p_blank = splat<T>(*emission.blank.m), scales = splat<T>(T(scale)), blanks{};
  Integers<T> e_blank{}, e_label{};
  if constexpr (apart) e_blank = splat<Integer<T>>(*emission.blank.e);
  Integers<T> base = splat<Integer<T>>(whole - 2 * Format<T>::bias);
  Number<T> next_b = zero<T>(), next_l = zero<T>();
  if (last * step < width) next_b = get(old, last * step), next_l = get(old, width + last * step);
  Size lowest = last, highest = first;
  for (Size i = last - 1; i >= first; i--) {
    Size k = i * step;
    Number<T> b = get(old, k), l = get(old, width + k);
    auto [to_blank, to_label] = outflow<T>(b, l, next_b, next_l, skip + k);
    next_b = b, next_l = l;
    Vector<T> of_blank = power_of_two<T>(load(alpha.e + k) + to_blank.e - base);
    const Vector<T> both_ways = to_blank.m * load(alpha.m + k);
    blanks = fma(both_ways, of_blank, blanks);
    if constexpr (each_blank) store(blank_occupancy + k, both_ways * (of_blank * scales));
    to_blank.m *= p_blank;
    put_product<T, apart>(now, k, to_blank, e_blank);
    Vector<T> of_label = power_of_two<T>(load(alpha.e + width + k) + to_label.e - base);
    store(occupancy + k, to_label.m * load(alpha.m + width + k) * (of_label * scales));
    if (any_positive(greater(of_label, of_blank))) lowest = i, highest = std::max(highest, i + 1);
    to_label.m *= load(emission.labels.m + k);
    if constexpr (apart) e_label = load(emission.labels.e + k);
    put_product<T, apart>(now, width + k, to_label, e_label);
  }
  clear(now, width, std::max(first - 1, Size(0)), first);
  clear(now, width, last, std::min(last + 1, width / step));
  return {double(sum_of(blanks)) * scale, lowest, highest};
}

// The sum over all states of alpha beta, of the vectors first to last - 1.
template <class T>
CTCX_INLINE Likelihood likelihood_of(Row<T> beta, Row<T> alpha, Size width, Size first, Size last,
                                     const Integer<T> *skip) {
  constexpr int step = lanes_of<T>;
  auto products = [&](Size k) {
    Number<T> next_b = zero<T>(), next_l = zero<T>();
    if (k + step < width) next_b = get(beta, k + step), next_l = get(beta, width + k + step);
    Outflow<T> v = outflow<T>(get(beta, k), get(beta, width + k), next_b, next_l, skip + k);
    v.blank.m *= load(alpha.m + k), v.blank.e += load(alpha.e + k);
    v.label.m *= load(alpha.m + width + k), v.label.e += load(alpha.e + width + k);
    return v;
  };
  Integers<T> top = splat<Integer<T>>(2 * Format<T>::never);
  for (Size k = first * step; k < last * step; k += step) {
    Outflow<T> v = products(k);
    top = greater(top, greater(v.blank.e, v.label.e));
  }
  Integer<T> largest = largest_of(top);
  Integers<T> base = splat<Integer<T>>(largest - Format<T>::bias);
  Vector<T> result{};
  for (Size k = first * step; k < last * step; k += step) {
    Outflow<T> v = products(k);
    result = fma(v.blank.m, power_of_two<T>(v.blank.e - base), result);
    result = fma(v.label.m, power_of_two<T>(v.label.e - base), result);
  }
  return {double(sum_of(result)), Size(largest) + Format<T>::bias};
}

}  // namespace
