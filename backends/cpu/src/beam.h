// Prefix beam search (Graves 2008, section 7.5.3; Hannun et al. 2014, algorithm 1), exact: a prefix
// is one entry of the beam, whichever of its paths are in it.
//
// With b_i and l_i the probabilities of the paths of prefix i that end in a blank and in its last
// label y_i, q_i = b_i + l_i, and j the prefix that i is when its last label is taken off, a frame of
// the probabilities p makes of the entries, and of new prefixes ic:
//
//     b_i <- q_i p_blank
//     l_i <- (l_i + [y_j differs from y_i] q_j + [y_j is y_i] b_j) p_(y_i)     (of j if it is in the beam)
//     l_ic = ([c differs from y_i] q_i + [c is y_i] b_i) p_c                   (if ic isn't in the beam)
//
// The most probable of all these are the next beam, in their order. Of equal ones, entries come before
// new prefixes, each in the order of the beam; new prefixes of a more probable class come first, and
// then those of a lower one.
//
// The new prefixes of one class are in order already, that of the beam, but for those that repeat a
// label. So are the entries that stay, but for a few. So a heap of streams gives the candidates in
// order: one stream a class, one for most of the entries, and one for each other entry and each
// repeated label. A class of which even the best entry would make none that counts isn't opened.
// Denominators of the softmax are the same for all prefixes, and multiplied apart.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "kernel.h"
#include "prefix_tree.h"
#include "softmax.h"
#include "wide.h"

namespace {

// The probabilities of a frame, that of the largest logit as 1: of all classes at once; or, of many
// float ones, for a vector of classes as soon as one is asked for, since few count. What all of them add
// up to then is computed in float, which is several times as fast.
template <class T> class FramePowers {
 public:
  FramePowers(Size classes, bool has_many, ctcx::Arena &arena)
      : classes_(classes), by_vectors_(has_many && std::is_same_v<T, float>) {
    const Size vectors = (classes + step - 1) / step;
    powers_ = arena.take<Wide>(vectors * step);
    is_known_ = arena.take<bool>(by_vectors_ ? vectors : 0);
  }
  // Returns what they add up to; NaN or +inf if a logit is NaN or +inf.
  double begin(const T *x) {
    x_ = x;
    if (!by_vectors_) {
      const T largest = largest_of_row(x, classes_);
      return wide_powers(x, classes_, largest == -infinity ? 0 : largest, powers_);
    }
    std::fill_n(is_known_, (classes_ + step - 1) / step, false);
    const Spread<T> spread = spread_of_row(x, classes_, x);
    largest_ = spread.largest;
    return spread.sum();
  }
  Wide operator[](Size c) {
    if (by_vectors_) compute(c / step);
    return powers_[c];
  }
  // Calls for the classes of `needed` at least, in order. The call may raise it.
  template <class Call> CTCX_INLINE void each(const Wide &needed, Call &&call) {
    T bound = bound_of(needed);
    for (Size c = 0; c < classes_; c += step) {
      if (by_vectors_) {
        const Vector<T> x = c + step <= classes_ ? load(x_ + c) : load_short(x_ + c, classes_ - c);
        if (!any_positive(x > splat(bound) ? splat(T(1)) : Vector<T>{})) continue;
        compute(c / step);
      }
      for (Size i = c; i < c + step; i += lanes_of<double>)
        for (unsigned bits = greater_bits(load(powers_ + i), splat(needed - 1)); bits; bits &= bits - 1)
          if (const Size at = i + std::countr_zero(bits); powers_[at] >= needed) call(at), bound = bound_of(needed);
    }
  }

 private:
  static constexpr T infinity = std::numeric_limits<T>::infinity();
  static constexpr Size step = lanes_of<T>;

  void compute(Size vector) {
    if (is_known_[vector]) return;
    is_known_[vector] = true;
    const Size c = vector * step;
    wide_powers(x_ + c, std::min(classes_ - c, step), largest_, powers_ + c);
  }
  // Logits up to this have powers below `needed`: log2(1 + f) is f or more.
  T bound_of(Wide needed) const {
    if (!by_vectors_ || needed < wide_near) return -infinity;
    const double digits = double(needed) / double(Wide(1) << wide_bits);
    const double bound = double(largest_) + digits / log2_e;
    return T(bound - 1e-6 * (1 + std::fabs(bound) + std::fabs(digits)));
  }

  const Size classes_;
  const bool by_vectors_;
  const T *x_ = nullptr;
  T largest_ = 0;
  Wide *powers_;
  bool *is_known_;
};

// The beam of a sequence. Its memory is that of `width` entries and of the prefixes' labels.
class Beam {
 public:
  // A frame's new prefixes are of the `most_labels` most probable labels, the lower of equal ones.
  Beam(Size classes, Size blank, Size width, Size most_labels, ctcx::Arena &arena)
      : classes_(classes), blank_(blank), width_(width), most_labels_(most_labels), words_((width + 63) / 64) {
    entries_ = arena.take<Entry>(width);
    next_ = arena.take<Entry>(width);
    staying_ = arena.take<Entry>(width);
    repeated_ = arena.take<bool>(width);
    chain_ = arena.take<std::int32_t>(width);
    best_ = arena.take<Wide>(has_many_classes() ? width : 0);
    heap_ = arena.take<Candidate>(2 * width + classes);
    row_of_ = arena.take<std::int32_t>(classes);
    in_beam_ = arena.take<std::uint64_t>(std::min(width, classes), words_);
    ranked_ = arena.take<std::int32_t>(most_labels < classes ? classes : 0);
  }

  // Before the first frame there is the empty prefix.
  void set_up() {
    entries_[0] = {wide_one, wide_zero, wide_one, 0, -1};
    tree_[0].slot = 0;
    count_ = 1;
    exponents_ = 0;
    std::fill_n(row_of_, classes_, -1);
  }
  Size count() const { return count_; }

  // Whether few classes of a frame count.
  static bool has_many_classes(Size classes, Size width) { return classes / 16 > width; }

  // A frame, of probabilities that need not add up to 1.
  template <class T> void advance(FramePowers<T> &p) {
    size_ = rows_ = 0;
    rank(p);
    offer_entries(p);
    offer_repeats(p);
    if (count_ > 0) offer_classes(p);
    choose();
  }

  // The logarithm of the probability of an entry, but for the denominators.
  double log_probability(Size i) const {
    const Apart total = apart(entries_[i].total);
    return double(exponents_ + total.exponent) * std::log(2.0) + std::log(total.mantissa);
  }
  // Writes the labels of an entry; returns how many there are.
  Size labels(Size i, std::int32_t *to) const {
    Size length = 0;
    for (std::int32_t node = entries_[i].node; node > 0; node = tree_[node].parent)
      to[length++] = tree_[node].label;
    std::reverse(to, to + length);
    return length;
  }

 private:
  struct Entry {
    Wide blank, label, total;  // b, l and q
    std::int32_t node, last;   // last: its last label, or -1
  };
  // The next candidate of a stream: prefix `slot` of the beam as it stays (label -1), or with a label.
  struct Candidate {
    Wide probability, of_label;
    std::int32_t label, slot;
    bool goes_on;  // whether more may come
  };
  static bool comes_first(const Candidate &a, const Candidate &b) {
    if (a.probability != b.probability) return a.probability > b.probability;
    if (a.of_label != b.of_label) return a.of_label > b.of_label;
    return a.label != b.label ? a.label < b.label : a.slot < b.slot;
  }

  // Then it pays to know, while classes are opened, which can't be among the best any more.
  bool has_many_classes() const { return has_many_classes(classes_, width_); }

  // Finds the last label, in their order, that may make new prefixes.
  template <class T> void rank(FramePowers<T> &p) {
    last_ranked_ = {std::numeric_limits<Wide>::min(), 0};
    if (most_labels_ >= classes_ - 1) return;
    std::int32_t *end = ranked_;
    for (Size c = 0; c < classes_; c++)
      if (c != blank_) *end++ = std::int32_t(c);
    std::nth_element(ranked_, ranked_ + most_labels_ - 1, end, [&p](std::int32_t a, std::int32_t b) {
      return p[a] != p[b] ? p[a] > p[b] : a < b;
    });
    const std::int32_t last = ranked_[most_labels_ - 1];
    last_ranked_ = {p[last], last};
  }
  bool may_be_new(Wide probability, Size label) const {
    return probability != last_ranked_.probability ? probability > last_ranked_.probability
                                                   : label <= last_ranked_.label;
  }

  // The entries as they stay, and what a new prefix must at least be to count. Takes down which
  // prefixes with one more label are in the beam.
  template <class T> void offer_entries(FramePowers<T> &p) {
    std::fill_n(repeated_, count_, false);
    least_ = std::numeric_limits<Wide>::max();
    chained_ = 0, next_in_chain_ = 1;
    for (Size i = 0; i < count_; i++) {
      const auto [blank, label, total, node, last] = entries_[i];
      Entry &stays = staying_[i];
      stays = {product(total, p[blank_]), wide_zero, wide_zero, node, last};
      if (last >= 0) {
        Wide into = label;
        note(last, i);
        if (const std::int32_t j = tree_[tree_[node].parent].slot; j >= 0) {
          const bool repeats = entries_[j].last == last;
          into = sum(into, repeats ? entries_[j].blank : entries_[j].total);
          if (repeats) repeated_[j] = true;
          else note(last, j);
        }
        stays.label = product(into, p[last]);
      }
      stays.total = sum(stays.blank, stays.label);
      least_ = std::min(least_, stays.total);
      if (!is_zero(stays.total)) chain(std::int32_t(i));
    }
    // Of equal ones, the entries come first.
    least_ = count_ < width_ ? wide_lowest : std::max(least_ + 1, wide_lowest);
    if (chained_ > 0) heap_[size_++] = staying(chain_[0], true);
  }
  // Appends an entry to those that are in order as they stay. One that is out of order, the last
  // one or this, is a stream of its own.
  void chain(std::int32_t slot) {
    auto is_after = [&](Size back) {
      return chained_ < back || staying_[slot].total <= staying_[chain_[chained_ - back]].total;
    };
    if (is_after(1)) {
      chain_[chained_++] = slot;
    } else if (is_after(2)) {
      heap_[size_++] = staying(chain_[chained_ - 1], false);
      chain_[chained_ - 1] = slot;
    } else {
      heap_[size_++] = staying(slot, false);
    }
  }
  Candidate staying(std::int32_t slot, bool goes_on) const {
    return {staying_[slot].total, std::numeric_limits<Wide>::max(), -1, slot, goes_on};
  }
  // Prefixes that repeat their last label: only paths that end in a blank lead there.
  template <class T> void offer_repeats(FramePowers<T> &p) {
    for (Size i = 0; i < count_; i++) {
      const std::int32_t last = entries_[i].last;
      if (last < 0 || repeated_[i]) continue;
      const Wide of_label = p[last];
      if (!may_be_new(of_label, last)) continue;
      const Wide probability = product(entries_[i].blank, of_label);
      if (probability >= least_) heap_[size_++] = {probability, of_label, last, std::int32_t(i), false};
    }
  }
  template <class T> void offer_classes(FramePowers<T> &p) {
    const Wide best = entries_[0].total;
    Wide needed = least_factor(least_, best);
    Size known = 0;  // of the probabilities of the best first prefixes, the least first
    p.each(needed, [&](Size c) {
      const Wide of_label = p[c];
      if (c == blank_ || !may_be_new(of_label, c)) return;
      Candidate first{0, of_label, std::int32_t(c), -1, true};
      if (!go_on(first)) return;
      heap_[size_++] = first;
      if (!has_many_classes()) return;
      if (known == width_) std::pop_heap(best_, best_ + known--, std::greater<>());
      best_[known++] = first.probability;
      std::push_heap(best_, best_ + known, std::greater<>());
      if (known == width_) least_ = std::max(least_, best_[0]), needed = least_factor(least_, best);
    });
  }
  // The next candidate of a stream; returns whether there is one that counts.
  bool go_on(Candidate &candidate) {
    if (candidate.label < 0) {
      if (next_in_chain_ >= chained_) return false;
      candidate = staying(chain_[next_in_chain_++], true);
      return true;
    }
    const std::int32_t row = row_of_[candidate.label];
    Size slot = candidate.slot + 1;
    if (row >= 0)
      while (slot < count_ && in_beam_[row * words_ + slot / 64] >> slot % 64 & 1) slot++;
    if (slot >= count_) return false;
    candidate.slot = std::int32_t(slot);
    candidate.probability = product(entries_[slot].total, candidate.of_label);
    return candidate.probability >= least_;
  }
  // The stream of a class passes an entry by.
  void note(std::int32_t label, Size slot) {
    std::int32_t &row = row_of_[label];
    if (row < 0) {
      row = std::int32_t(rows_++);
      std::fill_n(in_beam_ + row * words_, words_, 0);
    }
    in_beam_[row * words_ + slot / 64] |= std::uint64_t(1) << slot % 64;
  }

  // Takes the first ones from the heap as the next beam, relative to the power of two below the best.
  void choose() {
    const auto comes_last = [](const Candidate &a, const Candidate &b) { return comes_first(b, a); };
    std::make_heap(heap_, heap_ + size_, comes_last);
    const Wide scale = size_ > 0 ? exponent_part(heap_[0].probability) : 0;
    exponents_ += scale >> wide_bits;
    auto relative = [scale](Wide w) { return quotient(w, scale); };
    Size count = 0;
    for (; size_ > 0 && count < width_; count++) {
      Candidate &first = heap_[0];
      Entry &entry = next_[count];
      if (first.label < 0) {
        entry = staying_[first.slot];
        entry.blank = relative(entry.blank), entry.label = relative(entry.label);
      } else {
        entry = {wide_zero, relative(first.probability), 0, tree_.child(entries_[first.slot].node, first.label), first.label};
      }
      entry.total = relative(first.probability);
      if (!first.goes_on || !go_on(first)) first = heap_[--size_];
      sink();
    }
    for (Size i = 0; i < count_; i++) {
      tree_[entries_[i].node].slot = -1;
      if (entries_[i].last >= 0) row_of_[entries_[i].last] = -1;
    }
    for (Size i = 0; i < count; i++) tree_[next_[i].node].slot = std::int32_t(i);
    for (Size i = 0; i < count_; i++) tree_.prune(entries_[i].node);
    std::swap(entries_, next_);
    count_ = count;
  }
  // Moves the first candidate of the heap to its place.
  void sink() {
    const Candidate moved = heap_[0];
    Size at = 0;
    for (Size child; (child = 2 * at + 1) < size_; at = child) {
      if (child + 1 < size_ && comes_first(heap_[child + 1], heap_[child])) child++;
      if (!comes_first(heap_[child], moved)) break;
      heap_[at] = heap_[child];
    }
    heap_[at] = moved;
  }

  const Size classes_, blank_, width_, most_labels_, words_;
  Entry *entries_, *next_, *staying_;
  bool *repeated_;       // whether the prefix with its last label once more is in the beam
  std::int32_t *chain_;  // entries that are in order as they stay
  Wide *best_;           // a heap of its own
  Candidate *heap_;
  std::int32_t *row_of_;  // of each class, in `in_beam_`, or -1
  std::uint64_t *in_beam_;  // a bit for each entry that the class's stream passes by
  std::int32_t *ranked_;
  struct {
    Wide probability;
    Size label;
  } last_ranked_;
  Size count_ = 0, size_ = 0, rows_ = 0, chained_ = 0, next_in_chain_ = 0;
  Wide least_ = 0;
  Size exponents_ = 0;
  PrefixTree tree_;
};

// What a beam is computed for, and where to; `frames` fit into a row of labels.
template <class X, class T = typename ComputedIn<X>::Type> struct BeamSearch {
  const X *logits;  // the first frame; strides are in elements
  Size logits_row, length, frames, classes, blank, width, top, most_labels;

  // Writes the labels and the logarithm of the probability of the `top` best entries; returns false
  // if a logit is NaN or +inf.
  bool operator()(ctcx::Scratch &scratch, std::int32_t *labels, T *log_probs) const {
    ctcx::Arena counting;
    Search(*this, counting);
    ctcx::Arena arena(scratch.get(counting.used()));
    return Search(*this, arena).run(*this, labels, log_probs);
  }

 private:
  struct Search {
    Search(const BeamSearch &in, ctcx::Arena &arena)
        : beam(in.classes, in.blank, in.width, in.most_labels, arena),
          powers(in.classes, Beam::has_many_classes(in.classes, in.width) && in.most_labels >= in.classes - 1, arena),
          widened(arena.take<T>(std::is_same_v<X, T> ? 0 : in.classes)) {}
    bool run(const BeamSearch &in, std::int32_t *labels, T *log_probs) {
      constexpr double infinity = std::numeric_limits<double>::infinity();
      const Size frames_a_turn = 1 + (1 << 20) / (in.classes + 16 * in.width);
      double denominator = 1, log_denominator = 0;
      beam.set_up();
      for (Size t = 0; t < in.length; t++) {
        const T *x = computed_row(in.logits + t * in.logits_row, in.classes, widened);
        const double sum = powers.begin(x);
        if (!(sum < infinity)) return false;
        beam.advance(powers);
        if (sum > 0) denominator *= sum;
        if (denominator > 1e200) log_denominator += std::log(denominator), denominator = 1;
        if (t % frames_a_turn == frames_a_turn - 1) ctcx::pause();
      }
      log_denominator += std::log(denominator);
      for (Size i = 0; i < in.top; i++, labels += in.frames) {
        const bool is_there = i < beam.count();
        const Size count = is_there ? beam.labels(i, labels) : 0;
        std::fill(labels + count, labels + in.frames, -1);
        log_probs[i] = T(is_there ? std::min(beam.log_probability(i) - log_denominator, 0.0) : -infinity);
      }
      return true;
    }

    Beam beam;
    FramePowers<T> powers;
    T *widened;
  };
};

}  // namespace
