// Half of a sequence: from one end to the middle, and back.
//
// Both ends are treated alike: the second half runs through frames and labels backwards. In the
// middle, the last row of the one is the first row of the other's way back, where alphas and betas
// meet. So the halves need each other's rows only once, and can run on two threads.
//
// The way back needs the alphas of all frames. A long half keeps those of every `span` frames and
// computes the others again, so that memory grows with the square root of the frames.
#pragma once
#include <bit>

#include "kernel.h"
#include "lattice.h"
#include "scratch.h"
#include "softmax.h"

namespace {

// Probabilities from here on are used as the softmax left them. Where one is smaller, the
// probabilities of that frame get exponents of their own, from the logits in double.
constexpr double smallest_plain = 0x1p-100;
// How often, in frames, occupancies are scaled to add up to 1 anew.
constexpr Size frames_a_scale = 32;
// Numbers up to which all alphas of a half are kept.
constexpr Size most_kept_alphas = 1 << 17;

// A weight on the gradient costs a multiplication for each class on the way back, which has to fetch the
// row again. In the softmax it costs as much as that for each class that is kept as it was.
constexpr Size classes_a_kept_one = 12;

// Frames whose softmax is computed before any of it is looked up: as many as stay in the first
// cache, or up to 32 in the second, since rows that are read one after the other are fetched ahead.
CTCX_INLINE Size rows_together(Size classes) {
  return std::max({(Size(1) << 12) / classes, std::min((Size(1) << 17) / classes, Size(32)), Size(1)});
}

// Emission probabilities of frame t are multiplied by a factor of its own, within 3/4 and 5/4. Frames
// that are equal, or nearly so, would be rounded alike, and their errors would add up with their
// number, not with its root.
template <class T> CTCX_INLINE T factor_of(Size t) {
  if (t < few_frames) return 1;
  return T(0.75) + T(std::uint32_t(t) * 2654435769u >> 9) * T(0x1p-24);  // by the golden ratio
}

// X is the type of the logits, T the one that they are computed in.
template <class X, class T = typename ComputedIn<X>::Type> class Half {
  static constexpr int step = lanes_of<T>;
  static constexpr bool is_half_precision = !std::is_same_v<X, T>;

 public:
  // What a half works on. Strides are in elements; the second half has negative ones.
  struct Input {
    const X *logits;  // the half's first frame
    Size logits_row;
    X *gradient = nullptr;  // likewise; null for the loss alone
    Size gradient_row = 0;
    T weight = 1;  // of the gradient
    T *occupancies = nullptr;  // of the classes, in place of a gradient; likewise
    Size occupancies_row = 0;
    T *states = nullptr;  // their occupancies, or null
    Size states_row = 0, states_width = 0;
    Size frames, classes, blank;
    const std::int32_t *labels;
    Size count;
    bool turned;  // whether labels are read from the end
  };

  Half(const Input &input, ctcx::Arena &arena) : in_(input) {
    frames_ = in_.frames;
    width_ = (in_.count / step + 1) * step;
    span_ = std::max(frames_, Size(1));
    if (frames_ > most_kept_alphas / (2 * width_))
      span_ = std::max(Size(std::sqrt(double(frames_))), Size(1));
    spans_ = std::max((frames_ + span_ - 1) / span_, Size(1));
    // Rows that are read again, or rounded in the end, are weighed on the way back.
    weighs_early_ = in_.gradient && in_.weight != 1 && spans_ == 1 && !is_half_precision &&
                    in_.classes > classes_a_kept_one * (in_.count + 1);
    lay_out(arena);
  }

  // Lists the labels, and which of them may follow each other directly.
  void set_up() {
    const Size count = in_.count;
    distinct_ = -1;
    for (Size i = 0; i < count; i++) classes_[i] = in_.labels[in_.turned ? count - 1 - i : i];
    for (Size i = count; i < width_; i++) classes_[i] = std::int32_t(in_.blank);
    std::fill_n(skip_before_, width_, 0), std::fill_n(skip_after_, width_, 0);
    skip_before_[0] = Format<T>::never;
    for (Size i = 1; i < count; i++)
      if (classes_[i] == classes_[i - 1])
        skip_before_[i] = skip_after_[i - 1] = Format<T>::never;
  }

  // The softmax of some frames, in the order in which logits lie in memory, since processors fetch
  // ahead what is read upwards. Returns the excess; see softmax_of_rows.
  double softmax(Size first, Size rows) {
    bool down = in_.logits_row < 0;
    Size begin = down ? first + rows - 1 : first, turn = down ? -1 : 1;
    T *cleared = in_.occupancies ? in_.occupancies + begin * in_.occupancies_row : nullptr;
    Weighing<T> weighing{in_.weight, listed_, distinct_ + 1, unweighted_ + begin * unweighted_row()};
    return softmax_of_rows(in_.logits + begin * in_.logits_row, turn * in_.logits_row,
                           probabilities(begin), turn * p_row_, rows, in_.classes,
                           divisors_ + begin, begin, turn, cleared, turn * in_.occupancies_row,
                           weighs_early_ ? &weighing : nullptr, turn * unweighted_row());
  }

  // To the middle. `softmax_done`: all of it is there already. Returns the excess of the softmax.
  __attribute__((noinline)) double walk(bool softmax_done) {
    clear(kept(0), width_, 0, width_ / step);
    *kept(0).e = 0;
    small_ = false;
    if (softmax_done) weighs_early_ = false;
    if (weighs_early_) list_classes();
    double excess = 0, product = 1;
    factors_ = 0;
    Size ready = softmax_done ? frames_ : 0;
    for (Size s = 0; s < spans_; s++) {
      const bool in_last = s == spans_ - 1;
      const Size first = s * span_, rest = std::min(span_, frames_ - first);
      Row<T> old = kept(s);
      for (Size within = 0; within < rest; within++) {
        const Size t = first + within;
        if (t == ready) {
          Size rows = std::min(rows_together(in_.classes), frames_ - t);
          excess += softmax(t, rows);
          ready += rows;
        }
        Row<T> now = in_last               ? alpha(within + 1)
                     : within == span_ - 1 ? kept(s + 1)
                                           : passing(within + 1);
        forward(old, now, t, weighs_early_ ? unweighted(t) : by_class(t), in_last ? within : 0, 0, reached(t));
        if (in_.occupancies && !in_last) lend(t);
        old = now;
        product *= double(factor_of<T>(t));
        if (t % 64 == 63) factors_ += std::log2(std::exchange(product, 1));
        if (t % ctcx::frames_a_pause == ctcx::frames_a_pause - 1) ctcx::pause();
      }
    }
    factors_ += std::log2(product);
    clear(last(), width_, reached(frames_), width_ / step);
    return excess;
  }

  // The logarithm to base 2 of all the factors in the last row.
  double factors() const { return factors_; }

  // In the middle: takes the other half's last row as the first of the way back.
  void arrive(const Half &other) {
    Row<T> to = beta(0), from = other.last();
    clear(to, width_, 0, width_ / step);
    const Size count = in_.count;
    for (Size i = 0; i <= count; i++) to.m[i] = from.m[count - i], to.e[i] = from.e[count - i];
    to = to.at(width_), from = from.at(width_);
    for (Size i = 0; i < count; i++)
      to.m[i] = from.m[count - 1 - i], to.e[i] = from.e[count - 1 - i];
  }

  // The likelihood of the sequence, after arrive(); v is 0 where no path emits the labels.
  Likelihood likelihood() const {
    auto found = likelihood_of<T>(beta(0), last(), width_, 0, width_ / step, skip_after_);
    if (found.v == 0 || found.e < Size(Format<T>::never / 2)) return {0, 0};
    return found;
  }

  // Back to the end. Turns the softmax into the gradient, or writes the occupancies.
  void go_back() {
    if (in_.states) way_back<true>();
    else way_back<false>();
  }

  // Of a half that is the whole sequence: the likelihood after the last frame.
  Likelihood likelihood_at_end() const {
    const Sources ends = sources_of(last(), 2 * in_.count);
    return {ends.weight[0] + ends.weight[1], ends.exponent};
  }

  // Likewise: draws paths from the end (Rabiner 1989, section III). Each has a row of uniforms and one
  // of states, `row` elements apart.
  template <class U>
  __attribute__((noinline)) void draw(const U *uniforms, Size paths, Size row, std::int32_t *states) {
    small_ = false;
    for (Size s = spans_ - 1; s >= 0; s--) {
      const Size first = s * span_, end = std::min(first + span_, frames_);
      if (s < spans_ - 1) {
        std::int32_t lowest = states[end], highest = states[end];
        for (Size k = 1; k < paths; k++)
          lowest = std::min(lowest, states[k * row + end]), highest = std::max(highest, states[k * row + end]);
        fill_span(s, lowest / 2 / step, highest / 2 / step + 1);
      }
      for (Size t = end - 1; t >= first; t--) {
        if (t % ctcx::frames_a_pause == 0) ctcx::pause();
        for (Size k = 0; k < paths; k++) {
          const Size at = k * row + t;
          const bool is_last = t == frames_ - 1;
          const Size after = is_last ? 2 * in_.count : states[at + 1];
          states[at] = std::int32_t(after - pick(sources_of(alpha(t - first + 1), after), double(uniforms[at]), is_last));
        }
      }
    }
  }

  // Leaves the softmax as the gradient.
  void write_softmax() {
    if constexpr (is_half_precision)
      for (Size t = 0; t < frames_; t++) write(t);
  }

 private:
  // The states that a path can have been in a frame before `state`: itself, the one before it, and
  // the one two before. What is not is 0. Their alphas are `weight` times 2^exponent.
  struct Sources {
    double weight[3];
    Size exponent;
  };
  CTCX_INLINE Sources sources_of(Row<T> alphas, Size state) const {
    const Size i = state / 2, before = i > 0 ? width_ + i - 1 : -1;
    const Size of_blank[] = {i, before, -1}, of_label[] = {width_ + i, i, skip_before_[i] == 0 ? before : -1};
    const Size *places = state % 2 ? of_label : of_blank;
    constexpr Size never = Format<T>::never / 2;
    Sources found{{}, never};
    for (int back = 0; back < 3; back++)
      if (places[back] >= 0) found.exponent = std::max(found.exponent, Size(alphas.e[places[back]]));
    for (int back = 0; back < 3; back++) {
      if (places[back] < 0 || alphas.e[places[back]] <= never) continue;
      const Size biased = alphas.e[places[back]] - found.exponent + Format<double>::bias;
      if (biased > 0)
        found.weight[back] = double(alphas.m[places[back]]) *
                             std::bit_cast<double>(biased << Format<double>::fraction_bits);
    }
    return found;
  }
  // How many states a path goes back by a number from 0 to 1: first come those that stay, at the end
  // those of the label before the blank. One of probability 0 is never picked, whatever the number is.
  static CTCX_INLINE Size pick(const Sources &from, double uniform, bool is_last) {
    const double first = from.weight[is_last], second = from.weight[!is_last], third = from.weight[2];
    const double sought = (uniform > 0 ? uniform : 0) * (first + second + third);
    if (third > 0 && sought >= first + second) return 2;
    if (second > 0 && sought >= first) return !is_last;
    return is_last;
  }

  template <bool each_blank> __attribute__((noinline)) void way_back() {
    int which = 0;
    double scale = 0;
    Size whole = 0, lowest = 0, highest = width_ / step;
    small_ = false;
    for (Size s = spans_ - 1; s >= 0; s--) {
      if (s < spans_ - 1) fill_span(s, lowest, highest);
      const Size first = s * span_;
      for (Size t = std::min(frames_, first + span_) - 1; t >= first; t--) {
        const Size begin = std::max(lowest - 1, Size(0)), end = std::min(reached(t), highest);
        const Size within = t - first;
        Row<T> old = beta(which), now = beta(1 - which), a = alpha(within + 1);
        which = 1 - which;
        if ((frames_ - 1 - t) % frames_a_scale == 0) {
          auto found = likelihood_of<T>(old, a, width_, begin, end, skip_after_);
          scale = 1 / found.v, whole = found.e;
        }
        auto backward = [&](auto apart) __attribute__((always_inline)) {
          return backward_frame<T, decltype(apart)::value, each_blank>(
              old, now, width_, begin, end, skip_after_, emission(within), a, occupancy_,
              blank_occupancy_, scale, Integer<T>(whole));
        };
        const Band band = apart_[within] ? backward(std::true_type()) : backward(std::false_type());
        lowest = band.lowest, highest = band.highest;
        if (in_.occupancies) write_occupancies<each_blank>(t, s < spans_ - 1, band);
        else subtract(t, band);
        if (t % ctcx::frames_a_pause == 0) ctcx::pause();
      }
    }
  }

  // The one place that says which arrays there are, and how large.
  void lay_out(ctcx::Arena &arena) {
    const Size row = 2 * width_;
    auto rows = [&](Size count, Size length) {
      return Row<T>{arena.take<T>(count, length), arena.take<Integer<T>>(count, length)};
    };
    skip_before_ = arena.take<Integer<T>>(width_);
    skip_after_ = arena.take<Integer<T>>(width_);
    classes_ = arena.take<std::int32_t>(width_);
    occupancy_ = arena.take<T>(width_);
    blank_occupancy_ = arena.take<T>(in_.states ? width_ : 0);
    betas_ = rows(2, row);
    passing_ = rows(2, row);
    kept_ = rows(spans_, row);       // before each span but the last
    alphas_ = rows(span_ + 1, row);  // of one span, and before it
    labels_ = rows(span_, width_);
    blanks_ = rows(span_, 1);
    apart_ = arena.take<char>(span_);
    slots_ = arena.take<std::int32_t>(width_);
    listed_ = arena.take<std::int32_t>(width_ + 1);
    table_ = rows(width_ + 1, 1);
    slot_of_class_ = arena.take<std::int32_t>(in_.classes);
    unweighted_ = arena.take<T>(weighs_early_ ? frames_ : 0, unweighted_row());
    divisors_ = arena.take<Divisor>(std::max(frames_, Size(1)));
    if (in_.gradient && !is_half_precision) {
      p_row_ = in_.gradient_row, p_rows_ = std::max(frames_, Size(1));
      if constexpr (!is_half_precision) p_ = in_.gradient;
    } else {
      p_row_ = in_.classes;
      p_rows_ = in_.gradient ? std::max(frames_, Size(1)) : rows_together(in_.classes);
      p_ = arena.take<T>(p_rows_, p_row_);
    }
  }

  Row<T> beta(int which) const { return betas_.at(which * 2 * width_); }
  Row<T> passing(Size within) const { return passing_.at(within % 2 * 2 * width_); }
  Row<T> alpha(Size within) const { return alphas_.at(within * 2 * width_); }
  Row<T> kept(Size s) const { return s == spans_ - 1 ? alpha(0) : kept_.at(s * 2 * width_); }
  Row<T> last() const { return alpha(frames_ - (spans_ - 1) * span_); }
  Emission<T> emission(Size within) const {
    return {labels_.at(within * width_), blanks_.at(within)};
  }
  T *probabilities(Size t) const { return p_ + (t < p_rows_ ? t : t % p_rows_) * p_row_; }
  // Vectors of states that can be reached by a frame: a label a frame.
  Size reached(Size t) const { return std::min(width_ / step, t / step + 1); }

  // Emission probabilities

  // Probabilities of a frame, and where among them are those of the labels, of the blank, and of the
  // classes that are listed. There are `count`.
  struct Source {
    const T *p;
    const std::int32_t *labels;
    Size blank, count;
    bool is_listed;  // whether they are those of the listed classes alone
    CTCX_INLINE T listed(const std::int32_t *classes, Size i) const { return p[is_listed ? i : classes[i]]; }
  };
  Source by_class(Size t) const { return {probabilities(t), classes_, in_.blank, in_.classes, false}; }
  Source unweighted(Size t) const {
    return {unweighted_ + t * unweighted_row(), slots_, distinct_, distinct_ + 1, true};
  }
  Size unweighted_row() const { return in_.count + 1; }
  Source lent(Size t) const { return {occupancies(t), slots_, distinct_, distinct_ + 1, true}; }

  // Looks up the probabilities of the blank and of the labels; returns whether one is small.
  CTCX_INLINE bool look_up(Size t, const Source &from, Size within, Size begin, Size end) {
    const T *p = from.p;
    const T factor = factor_of<T>(t);
    const Vector<T> factors = splat<T>(factor);
    Emission<T> to = emission(within);
    *to.blank.m = p[from.blank] * factor;
    Vector<T> least = splat<T>(p[from.blank]);
    auto labels = [&](auto find) {
      for (Size k = begin * step; k < end * step; k += step) {
        Vector<T> v = find(from.labels + k);
        store(to.labels.m + k, v * factors);
        least = smaller(v, least);
      }
    };
    if (from.count <= Table<T>::most) labels(Table<T>(p, from.count));
    else labels([p](const std::int32_t *at) { return gather(p, at); });
    return any_positive(splat<T>(T(smallest_plain)) - least);
  }

  // Lists the classes that occur, the blank last, and where in that list each label is.
  void list_classes() {
    const Size count = in_.count;
    for (Size i = 0; i < count; i++) slot_of_class_[classes_[i]] = -1;
    distinct_ = 0;
    for (Size i = 0; i < count; i++) {
      std::int32_t &slot = slot_of_class_[classes_[i]];
      if (slot < 0) slot = std::int32_t(distinct_), listed_[distinct_++] = classes_[i];
      slots_[i] = slot;
    }
    listed_[distinct_] = std::int32_t(in_.blank);
    for (Size i = count; i < width_; i++) slots_[i] = std::int32_t(distinct_);
  }

  // The same with exponents, however small they are. Returns whether one is small.
  __attribute__((noinline)) bool take_apart(Size t, const Source &from, Size within, Size begin, Size end) {
    if (distinct_ < 0) list_classes();
    const X *logits = in_.logits + t * in_.logits_row;
    const Divisor divisor = divisors_[t];
    const T factor = factor_of<T>(t);
    bool any = false;
    for (Size i = 0; i <= distinct_; i++) {
      const T probability = from.listed(listed_, i);
      table_.m[i] = probability * factor, table_.e[i] = 0;
      if (probability >= T(smallest_plain)) continue;
      any = true;
      // The product with m is exact.
      double y = double(widen(logits[listed_[i]])) - divisor.offset;
      y = ((y - divisor.m * Format<double>::ln_2) - divisor.m * Format<double>::ln_2_rest) * log2_e;
      if (y > double(Format<T>::never) && divisor.inverse > 0) {
        double whole = std::nearbyint(y);
        table_.m[i] = T(std::exp2(y - whole) * divisor.inverse * double(factor));
        table_.e[i] = Integer<T>(whole);
      } else {
        table_.m[i] = 1, table_.e[i] = Format<T>::never;
      }
    }
    Emission<T> to = emission(within);
    *to.blank.m = table_.m[distinct_], *to.blank.e = table_.e[distinct_];
    for (Size k = begin * step; k < end * step; k += step)
      put<T>(to.labels, k, {gather(table_.m, slots_ + k), gather(table_.e, slots_ + k)});
    return any;
  }

  // Finds a frame's emissions and goes on by it. A frame after one with small probabilities is
  // likely to have some too.
  CTCX_INLINE void forward(Row<T> old, Row<T> now, Size t, const Source &from, Size within, Size begin, Size end) {
    bool apart = small_ || look_up(t, from, within, begin, end);
    apart_[within] = apart;
    if (apart) {
      small_ = take_apart(t, from, within, begin, end);
      forward_frame<T, true>(old, now, width_, begin, end, skip_before_, emission(within));
    } else {
      forward_frame<T, false>(old, now, width_, begin, end, skip_before_, emission(within));
    }
  }

  // Computes the alphas of a span again, for the vectors that count when the way back enters it at
  // `lowest` to `highest`. It goes down by a label a frame at most, and what is left out below
  // spoils as many more.
  void fill_span(Size s, Size lowest, Size highest) {
    const Size begin = std::max(lowest - 2 * (span_ / step + 1), Size(0)), first = s * span_;
    Row<T> old = kept(s);
    for (Size within = 0; within < span_; within++) {
      Row<T> now = alpha(within + 1);
      const Size t = first + within;
      if (!in_.occupancies && p_rows_ < frames_ && (within == 0 || t % p_rows_ == 0))  // not kept
        softmax(t, std::min((t / p_rows_ + 1) * p_rows_, first + span_) - t);
      forward(old, now, t, in_.occupancies ? lent(t) : by_class(t), within, begin, std::min(reached(t), highest));
      old = now;
    }
  }

  // Adds the occupancies, or what is opposite, to a row of the classes.
  template <int sign> CTCX_INLINE void add(T *row, const Band &band) const {
    row[in_.blank] += sign * T(band.blanks);
    const Size stop = std::min(in_.count, band.highest * step);
#pragma GCC unroll 4
    for (Size i = band.lowest * step; i < stop; i++) row[classes_[i]] += sign * occupancy_[i];
  }
  // Turns the softmax of a frame into its gradient (Graves et al. 2006, equation 16), and weighs it.
  CTCX_INLINE void subtract(Size t, const Band &band) {
    if (weighs_early_) return subtract_from_unweighted(t, band);
    add<-1>(probabilities(t), band);
    if (in_.weight != 1) scale_row(probabilities(t), in_.classes, in_.weight);
    if constexpr (is_half_precision) write(t);
  }
  // The same, from the probabilities that were kept, which are rounded as without weights.
  CTCX_INLINE void subtract_from_unweighted(Size t, const Band &band) {
    T *row = probabilities(t), *unweighted = unweighted_ + t * unweighted_row();
    row[in_.blank] = (unweighted[distinct_] - T(band.blanks)) * in_.weight;
    const Size begin = band.lowest * step, end = std::min(in_.count, band.highest * step);
    for (Size i = begin; i < end; i++) unweighted[slots_[i]] -= occupancy_[i];
    for (Size i = begin; i < end; i++) row[classes_[i]] = unweighted[slots_[i]] * in_.weight;
  }
  // The row of the classes' occupancies is 0 from the softmax on. If alphas have to be computed
  // again, it begins until then with the probabilities of the listed classes, side by side. There is room
  // for them, since no label is the blank.
  T *occupancies(Size t) const { return in_.occupancies + t * in_.occupancies_row; }
  void lend(Size t) {
    if (distinct_ < 0) list_classes();
    for (Size i = 0; i <= distinct_; i++) occupancies(t)[i] = probabilities(t)[listed_[i]];
  }
  template <bool with_states> CTCX_INLINE void write_occupancies(Size t, bool is_lent, const Band &band) const {
    if (is_lent) std::fill_n(occupancies(t), distinct_ + 1, T(0));
    add<1>(occupancies(t), band);
    if constexpr (with_states) {
      T *states = in_.states + t * in_.states_row;
      // Memory fetches the next row meanwhile.
      for (Size i = 0; i < in_.states_width; i += 64 / Size(sizeof(T))) __builtin_prefetch(states - in_.states_row + i, 1);
      std::fill_n(states, in_.states_width, T(0));
      if (in_.turned) interleave<-1>(states + 2 * in_.count, band);
      else interleave<1>(states, band);
    }
  }
  // Numbers go upwards in memory in both directions: compilers make vectors of that alone.
  template <int turn> CTCX_INLINE void interleave(T *__restrict states, const Band &band) const {
    const T *__restrict blanks = blank_occupancy_, *__restrict labels = occupancy_;
    const Size begin = band.lowest * step, end = std::min(in_.count, band.highest * step);
    if constexpr (turn == 1) {
      for (Size i = begin; i < end; i++) states[2 * i] = blanks[i], states[2 * i + 1] = labels[i];
    } else {
      for (Size i = end - 1; i >= begin; i--) states[-2 * i - 1] = labels[i], states[-2 * i] = blanks[i];
    }
    if (end < band.highest * step) states[turn * 2 * end] = blanks[end];
  }
  // Rounds a row of the gradient to half precision.
  void write(Size t) {
    const T *p = probabilities(t);
    X *to = in_.gradient + t * in_.gradient_row;
    for (Size c = 0; c < in_.classes; c++) to[c] = narrow<X>(p[c]);
  }

  Input in_;
  Size frames_, width_, span_, spans_;
  bool small_ = false;   // whether the frame before had small probabilities
  bool weighs_early_;    // whether the softmax is weighed at once, and the listed classes kept as they were
  Size distinct_ = -1;   // classes that occur, once they have been listed
  double factors_ = 0;

  // Scratch; a row of states is 2 width_ numbers.
  Integer<T> *skip_before_, *skip_after_;
  std::int32_t *classes_;
  T *occupancy_, *blank_occupancy_, *unweighted_;
  Row<T> betas_, passing_, kept_, alphas_, labels_, blanks_, table_;
  char *apart_;
  std::int32_t *slots_, *listed_, *slot_of_class_;
  Divisor *divisors_;
  // Probabilities: p_rows_ rows, after which they start again.
  T *p_;
  Size p_row_, p_rows_;
};

}  // namespace
