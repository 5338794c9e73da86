// The most probable class of each frame, and the logarithm of its probability:
//
//     c_t = the lowest c with the largest x_tc,    log p_t = -log(sum over c of exp(x_tc - x_t(c_t)))
#pragma once
#include "kernel.h"
#include "softmax.h"

namespace {

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

// Writes both for all frames; returns false if a logit is NaN or +inf. A frame whose classes are all
// masked has the class -1 and the logarithm -inf. `widened` is a row of numbers.
template <class X, class T = typename ComputedIn<X>::Type>
bool best_classes(const X *logits, Size row, Size frames, Size classes, T *widened, std::int32_t *best,
                  T *log_probs) {
  for (Size t = 0; t < frames; t++) {
    if (t % ctcx::frames_a_pause == ctcx::frames_a_pause - 1) ctcx::pause();
    const T *x = computed_row(logits + t * row, classes, widened);
    const T *ahead = std::is_same_v<X, T> && t + 1 < frames ? x + row : x;
    const Spread<T> spread = spread_of_row(x, classes, ahead);
    if (!(spread.log_sum < std::numeric_limits<double>::infinity())) return false;
    best[t] = std::int32_t(first_equal(x, classes, spread.largest));
    log_probs[t] = best[t] < 0 ? -std::numeric_limits<T>::infinity() : T(0 - spread.log_sum);
  }
  return true;
}

}  // namespace
