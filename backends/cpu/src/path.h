// The most probable path of a sequence's labels (Viterbi's recursion), exact at any length.
//
// With b_i the largest sum of logits of a path that is in the blank before label i, l_i in label i:
//
//     b_i <- max(b_i, l_(i-1)) + x_blank
//     l_i <- max(l_i, b_i, [label i differs from label i-1] l_(i-1)) + x_(label i)
//
// Of equal terms the first one is chosen. The denominator of a frame's softmax is the same for all
// states, so that the path needs none. Sums are in double, of logits relative to the largest of
// their frame, so that a constant, however large, changes nothing. Those of few-bit
// numbers are exact, and others lose nothing that matters over 50,000 float32 logits. ctcx's core
// adds up the same numbers in the same order, so it finds the same path.
//
// Three bits for each label and the blank before it say where the path to them came from. Where all
// of them are too many, the way there keeps the sums before every `span` frames, and the way back
// goes through a span again, for the labels only from which the path can have come: at most one a
// frame. So memory grows with the square root of the frames.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernel.h"
#include "scratch.h"
#include "softmax.h"

namespace {

// Bytes of choices of a sequence that are kept all at once.
constexpr Size most_choices = 1 << 16;
// Positions whose choices lie together. A position is a label and the blank before it.
constexpr Size unit = 16;

// Of `unit` positions, a bit each: whether a blank's path came from the label before it, and a
// label's from one state back (the blank), or from two (the label before).
struct Choices {
  std::uint16_t blank_moved, one_back, two_back;
};

// Logits of the labels of a frame, in double, two vectors from a position on.
struct TableEmission {
  Table<float> table;
  const std::int32_t *at;
  CTCX_INLINE Doubles operator()(Size k) const { return in_double(table(at + k)); }
};
struct ListedEmission {
  const double *x;
  CTCX_INLINE Doubles operator()(Size k) const {
    return {load(x + k), load(x + k + lanes_of<double>)};
  }
};

// One frame, for the positions `begin` to `end` - 1, both multiples of `unit`. `skip` is added to
// the sum of label i-1 on its way to label i: 0, or -inf where they are equal.
template <bool chooses, class Emission>
CTCX_INLINE void best_frame(double *blanks, double *labels, const double *skip, Size begin, Size end,
                            const Emission &emission, double x_blank, double largest,
                            Choices *choices) {
  constexpr int step = lanes_of<double>;
  const Vector<double> emitted_blank = splat<double>(x_blank - largest);
  const Vector<double> offset = splat<double>(largest);
  Vector<double> labels_before = begin > 0 ? load(labels + begin - step)
                                           : splat(-std::numeric_limits<double>::infinity());
  for (Size k = begin; k < end; k += unit) {
    unsigned blank_moved = 0, one_back = 0, two_back = 0;
    auto advance = [&](int i, Vector<double> emitted) __attribute__((always_inline)) {
      const Vector<double> b = load(blanks + k + i), l = load(labels + k + i);
      const Vector<double> previous = window<double, step - 1>(labels_before, l);
      const Vector<double> near = greater(b, l), skipping = previous + load(skip + k + i);
      labels_before = l;
      if constexpr (chooses) {
        blank_moved |= greater_bits(previous, b) << i;
        one_back |= greater_bits(b, l) << i;
        two_back |= greater_bits(skipping, near) << i;
      }
      store(blanks + k + i, greater(previous, b) + emitted_blank);
      store(labels + k + i, greater(skipping, near) + (emitted - offset));
    };
#pragma GCC unroll 4
    for (int i = 0; i < unit; i += 2 * step) {
      const Doubles emitted = emission(k + i);
      advance(i, emitted.low), advance(i + step, emitted.high);
    }
    if constexpr (chooses)
      *choices++ = {std::uint16_t(blank_moved), std::uint16_t(one_back), std::uint16_t(two_back)};
  }
}

// X is the type of the logits, T the one that they are computed in.
template <class X, class T = typename ComputedIn<X>::Type> class BestPath {
 public:
  // What a path is sought for. Strides are in elements.
  struct Input {
    const X *logits;  // the first frame
    Size logits_row;
    const T *extra;  // columns beside the classes; null if there are none
    Size extra_row;
    Size frames, classes, blank;
    Size first_blank, last_blank;  // columns of the blanks before and after all labels
    const std::int32_t *labels;    // columns
    Size count;
  };
  enum class Outcome { found, none, wrong };  // wrong: a logit is NaN or +inf

  BestPath(const Input &input, ctcx::Arena &arena) : in_(input) {
    width_ = in_.count / unit * unit + unit;
    span_ = std::max(in_.frames, Size(1));
    if (span_ > most_choices / (width_ / unit * Size(sizeof(Choices))))
      span_ = Size(std::ceil(std::sqrt(double(span_))));
    spans_ = (std::max(in_.frames, Size(1)) + span_ - 1) / span_;
    window_ = spans_ == 1 ? width_ : std::min(width_, (span_ + 2 * unit - 1) / unit * unit);
    lay_out(arena);
  }

  // Writes the state and the logarithm of the probability of each frame, if there is a path.
  Outcome operator()(std::int32_t *states, T *log_probs) {
    set_up();
    for (Size s = 0; s < spans_; s++) {
      if (spans_ > 1) copy(blanks_, labels_, kept(s), kept(s) + width_, 0, width_);
      const Size first = s * span_, last = std::min(first + span_, in_.frames);
      const bool fine = spans_ > 1 ? walk<false>(first, last, in_.frames, in_.count, 0)
                                   : walk<true>(first, last, in_.frames, in_.count, 0);
      if (!fine) return Outcome::wrong;
    }
    const double blank = blanks_[in_.count];
    const double label = in_.count > 0 ? labels_[in_.count - 1] : blank;
    if (!(std::max(blank, label) > -std::numeric_limits<double>::infinity())) return Outcome::none;
    Size state = in_.count == 0 || blank > label ? 2 * in_.count : 2 * in_.count - 1;
    for (Size s = spans_ - 1; s >= 0; s--) {
      const Size first = s * span_, last = std::min(first + span_, in_.frames);
      Size from = 0;
      if (spans_ > 1) {
        const Size to = state / 2;
        from = std::max(to - (last - first), Size(0)) / unit * unit;
        copy(kept(s), kept(s) + width_, blanks_, labels_, from, to / unit * unit + unit);
        walk<true>(first, last, last, to, from);
      }
      state = trace(first, last, state, from, states);
    }
    for (Size t = 0; t < in_.frames; t++) log_probs[t] = log_prob(t, states[t]);
    return Outcome::found;
  }

 private:
  void lay_out(ctcx::Arena &arena) {
    at_ = arena.take<std::int32_t>(width_);
    skip_ = arena.take<double>(width_);
    blanks_ = arena.take<double>(width_);
    labels_ = arena.take<double>(width_);
    emitted_ = arena.take<double>(width_);
    choices_ = arena.take<Choices>(span_, window_ / unit);
    kept_ = arena.take<double>(spans_ > 1 ? spans_ : 0, 2 * width_);
    spreads_ = arena.take<Spread<T>>(in_.frames);
    widened_ = arena.take<T>(std::is_same_v<X, T> ? 0 : in_.classes);
  }
  double *kept(Size span) const { return kept_ + span * 2 * width_; }

  // Before the first frame all is in the blank before the first label.
  void set_up() {
    constexpr double never = -std::numeric_limits<double>::infinity();
    std::copy_n(in_.labels, in_.count, at_);
    std::fill_n(at_ + in_.count, width_ - in_.count, std::int32_t(in_.blank));
    std::fill_n(skip_, width_, 0.0);
    for (Size i = 1; i < in_.count; i++)
      if (at_[i] == at_[i - 1]) skip_[i] = never;
    std::fill_n(blanks_, width_, never), std::fill_n(labels_, width_, never);
    blanks_[0] = 0;
    uses_table_ = in_.classes <= Table<float>::most && !in_.extra;
    has_ends_ = in_.first_blank != in_.blank || in_.last_blank != in_.blank;
    measured_ = 0;
  }

  // Goes on through the frames `first` to `last` - 1, for positions from which a path can come to
  // position `to` before frame `end`. Rows that haven't been are measured; returns false if one is
  // wrong. Choices begin with position `from`.
  template <bool chooses>
  __attribute__((noinline)) bool walk(Size first, Size last, Size end, Size to, Size from) {
    for (Size t = first; t < last; t++) {
      if (t % ctcx::frames_a_pause == ctcx::frames_a_pause - 1) ctcx::pause();
      if (t == measured_) {
        if (!measure(t)) return false;
        measured_++;
      }
      const Size begin = std::max(to - (end - t), Size(0)) / unit * unit;
      const Size stop = std::min(to, t) / unit * unit + unit;
      const double blank = widen(row(t)[in_.blank]), largest = spreads_[t].largest;
      const double first_blank = blanks_[0];
      const double last_blank =
          in_.count > 0 ? greater(labels_[in_.count - 1], blanks_[in_.count]) : first_blank;
      Choices *choices = chooses ? chosen(t - first, begin - from) : nullptr;
      auto go_on = [&](const auto &emission) __attribute__((always_inline)) {
        best_frame<chooses>(blanks_, labels_, skip_, begin, stop, emission, blank, largest, choices);
      };
      if constexpr (std::is_same_v<X, float> && Table<float>::most > 0) {
        if (uses_table_) go_on(TableEmission{{row(t), in_.classes}, at_});
        else list(t, begin, stop), go_on(ListedEmission{emitted_});
      } else {
        list(t, begin, stop), go_on(ListedEmission{emitted_});
      }
      if (has_ends_) {
        if (stop > in_.count) blanks_[in_.count] = last_blank + (column(t, in_.last_blank) - largest);
        if (begin == 0) blanks_[0] = first_blank + (column(t, in_.first_blank) - largest);
      }
    }
    return true;
  }

  // Follows the choices back from a state after frame `last` - 1; returns the one before `first`.
  Size trace(Size first, Size last, Size state, Size from, std::int32_t *states) const {
    for (Size t = last - 1; t >= first; t--) {
      states[t] = std::int32_t(state);
      const Size position = state / 2 - from;
      const Choices &choices = *chosen(t - first, position / unit * unit);
      auto is_set = [&](std::uint16_t bits) { return bits >> position % unit & 1; };
      if (state % 2 == 0) state -= is_set(choices.blank_moved);
      else state -= is_set(choices.two_back) ? 2 : is_set(choices.one_back);
    }
    return state;
  }
  // Choices of a frame of a span, from a position of the window on.
  Choices *chosen(Size frame, Size position) const {
    return choices_ + frame * (window_ / unit) + position / unit;
  }

  const X *row(Size t) const { return in_.logits + t * in_.logits_row; }
  T column(Size t, Size which) const {
    return which < in_.classes ? widen(row(t)[which])
                               : in_.extra[t * in_.extra_row + which - in_.classes];
  }
  void list(Size t, Size begin, Size end) {
    const X *x = row(t);
    if (in_.extra)
      for (Size i = begin; i < end; i++) emitted_[i] = column(t, at_[i]);
    else
      for (Size i = begin; i < end; i++) emitted_[i] = widen(x[at_[i]]);
  }
  bool measure(Size t) {
    const T *x = computed_row(row(t), in_.classes, widened_);
    spreads_[t] = spread_of_row(x, in_.classes, x);
    return spreads_[t].others < std::numeric_limits<double>::infinity();
  }
  T log_prob(Size t, Size state) const {
    const Size blank = state == 0                ? in_.first_blank
                       : state == 2 * in_.count ? in_.last_blank
                                                : in_.blank;
    const double x = column(t, state % 2 ? Size(at_[state / 2]) : blank);
    return T((x - spreads_[t].largest) - spreads_[t].log_sum());
  }

  static void copy(const double *blanks, const double *labels, double *to_blanks, double *to_labels,
                   Size begin, Size end) {
    std::copy(blanks + begin, blanks + end, to_blanks + begin);
    std::copy(labels + begin, labels + end, to_labels + begin);
  }

  const Input in_;
  Size width_, span_, spans_, window_, measured_ = 0;
  bool uses_table_ = false, has_ends_ = false;
  std::int32_t *at_;  // columns of the labels
  double *skip_, *blanks_, *labels_, *emitted_;
  Choices *choices_;   // of one span
  double *kept_;       // blanks and labels before each span, if there are several
  Spread<T> *spreads_;  // of each frame
  T *widened_;         // a row
};

}  // namespace
