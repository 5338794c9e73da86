// The most probable class of each frame, and the logarithm of its probability:
//
//     c_t = the lowest c with the largest x_tc,    log p_t = -log(sum over c of exp(x_tc - x_t(c_t)))
#pragma once
#include "kernel.h"
#include "softmax.h"

namespace {

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
    if (!(spread.others < std::numeric_limits<double>::infinity())) return false;
    best[t] = std::int32_t(spread.first);
    log_probs[t] = best[t] < 0 ? -std::numeric_limits<T>::infinity() : T(0 - spread.log_sum());
  }
  return true;
}

}  // namespace
