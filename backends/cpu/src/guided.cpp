#include "guided.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ngrams.h"
#include "phrases.h"
#include "prefix_tree.h"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity(), none = -infinity;

using ctcx::Batch, ctcx::Size;

// What an n-gram model says of each class after the contexts of a beam. Rows are forgotten when they
// are many, between frames.
class Rows {
 public:
  Rows(const ctcx_cpu_ngrams *model, Size width) : model_(model), width_(width) {}
  struct Row {
    std::vector<double> log_probs;
    double largest = none;
  };
  void forget_many() {
    const std::size_t most = std::max(std::size_t(4 * width_), (std::size_t(1) << 20) / std::size_t(model_->classes()));
    if (rows_.size() > most) rows_.clear();
  }
  const Row &operator[](std::int32_t context) {
    const Row *row = nullptr;
    for (;; context = model_->suffix(context)) {  // up to the one that is there
      if (const auto found = rows_.find(context); found != rows_.end()) {
        row = found->second.get();
        break;
      }
      missing_.push_back(context);
      if (context == 0) break;
    }
    for (; !missing_.empty(); missing_.pop_back()) {
      auto made = std::make_unique<Row>();
      made->log_probs.resize(std::size_t(model_->classes()));
      model_->row(missing_.back(), row ? row->log_probs.data() : nullptr, made->log_probs.data());
      made->largest = *std::max_element(made->log_probs.begin(), made->log_probs.end());
      row = made.get();
      rows_[missing_.back()] = std::move(made);
    }
    return *row;
  }

 private:
  const ctcx_cpu_ngrams *model_;
  Size width_;
  std::vector<std::int32_t> missing_;
  std::unordered_map<std::int32_t, std::unique_ptr<Row>> rows_;
};

// Of eight numbers at a time, which take no longer than one.
double largest_of(const std::vector<double> &numbers) {
  double largest[8];
  std::fill_n(largest, 8, none);
  std::size_t i = 0;
  for (; i + 8 <= numbers.size(); i += 8)
    for (std::size_t k = 0; k < 8; k++) largest[k] = std::max(largest[k], numbers[i + k]);
  for (; i < numbers.size(); i++) largest[0] = std::max(largest[0], numbers[i]);
  return *std::max_element(largest, largest + 8);
}

// The largest of some numbers but for so many, as by std::nth_element, whose branches on random numbers no
// processor foresees. Changes both.
double largest_but(std::size_t many, std::vector<double> &numbers, std::vector<double> &smaller) {
  for (int turn = 0; turn < 32 && numbers.size() > 16; turn++) {
    const double first = numbers.front(), last = numbers.back(), middle = numbers[numbers.size() / 2];
    const double pivot = std::max(std::min(first, last), std::min(std::max(first, last), middle));
    smaller.resize(numbers.size());
    std::size_t larger_ones = 0, smaller_ones = 0;
    for (const double each : numbers) {
      smaller[smaller_ones] = each, numbers[larger_ones] = each;
      smaller_ones += each < pivot, larger_ones += each > pivot;
    }
    const std::size_t others = numbers.size() - smaller_ones;
    if (many < larger_ones) {
      numbers.resize(larger_ones);
    } else if (many < others) {
      return pivot;
    } else {
      many -= others;
      smaller.resize(smaller_ones);
      std::swap(numbers, smaller);
    }
  }
  std::nth_element(numbers.begin(), numbers.begin() + std::ptrdiff_t(many), numbers.end(), std::greater<>());
  return numbers[many];
}

// All numbers are logarithms. Sums are made in the order of the core's, so that ties are ties here, too.
class GuidedBeam {
 public:
  GuidedBeam(const Batch &batch, const ctcx::Kernel &kernel)
      : batch_(batch), kernel_(kernel), model_(batch.ngrams_weight > 0 ? batch.ngrams : nullptr), width_(std::size_t(batch.width)),
        phrases_(batch.phrases ? batch.phrases->remembered(batch.classes) : nullptr), rows_(model_, batch.width),
        nothing_(std::size_t(batch.classes), 0.0), from_start_(phrases_ ? phrases_->from_start() : nothing_),
        new_(std::size_t(batch.classes), none), picked_(std::size_t(batch.classes)),
        marks_(std::size_t(batch.classes), -1),
        into_(width_ + ctcx::most_lanes), stay_(into_), total_(into_) {}

  // False if these can't be entries of a beam. `labels` (W, L), and `numbers` of W each, which are
  // `apart` elements from one kind to the next.
  bool begin(const std::int32_t *labels, Size positions, const double *numbers, Size apart);
  void begin_empty();
  void advance(const double *p);
  void write(std::int32_t *labels, Size positions, double *numbers, Size apart) const;
  void end() {
    if (phrases_) batch_.phrases->remember(std::move(phrases_));
  }

 private:
  struct Entry {
    double blank = none, label = none, total = none, bonus = 0;
    std::int32_t node = 0, last = -1, phrase = 0;
    ctcx_cpu_ngrams::State words;
    double of_spelled = 0;  // times its weight
  };
  struct Candidate {
    double score, p;
    std::int32_t label, slot;  // a prefix of the beam as it stays (label -1), or with a label
    std::int32_t goes_on;      // the place of the label among those that go on with phrases, or -1
  };
  static bool comes_first(const Candidate &a, const Candidate &b) {
    if (a.score != b.score) return a.score > b.score;
    if (a.label < 0 || b.label < 0) return (a.label < 0) != (b.label < 0) ? a.label < 0 : a.slot < b.slot;
    if (a.p != b.p) return a.p > b.p;
    return a.label != b.label ? a.label < b.label : a.slot < b.slot;
  }

  // What is spelled says the same until the entry leaves.
  void look_ahead(Entry &entry) const {
    if (model_ && model_->is_of_words()) entry.of_spelled = batch_.ngrams_weight * model_->of_spelled(entry.words);
  }
  void add_label(Entry &entry, std::int32_t label, bool matters) const {
    if (phrases_ && matters) entry.phrase = phrases_->after(entry.phrase, label);
    if (model_) entry.words = model_->after(entry.words, label);
  }
  bool has_rows() const { return batch_.classes <= PhraseStates::most_in_rows; }
  const double *row_of(const Entry &entry) const { return phrases_ ? phrases_->row(entry.phrase) : nothing_.data(); }
  const PhraseStates::Seen &phrase_of(const Entry &entry) const {
    return phrases_ ? (*phrases_)[entry.phrase] : no_phrase_;
  }
  // What a new prefix's label adds by phrases, and the state after it.
  double gain_of(const Candidate &candidate) const {
    const Entry &entry = entries_[candidate.slot];
    if (has_rows()) return row_of(entry)[candidate.label];
    if (candidate.goes_on >= 0) return phrase_of(entry).following[std::size_t(candidate.goes_on)].gain;
    return from_start_[std::size_t(candidate.label)] + phrase_of(entry).refund;
  }
  std::int32_t after(const Candidate &candidate) const {
    const std::int32_t before = entries_[candidate.slot].phrase;
    if (has_rows()) return phrases_->after(before, candidate.label);
    if (candidate.goes_on >= 0) return phrases_->after_following(before, std::size_t(candidate.goes_on));
    return phrases_->after_other(candidate.label);
  }
  double of_model(const Entry &entry, const Rows::Row *row, std::int32_t label) const {
    if (row) return batch_.ngrams_weight * row->log_probs[std::size_t(label)];
    return model_ && model_->separates(label) ? entry.of_spelled : 0;
  }

  // What a candidate must at least have, but for rounding.
  void need(double score) {
    least_ = std::max(least_, score);
    needed_ = least_ - 1e-9 * (1 + std::fabs(least_));
    if (least_ == none) needed_ = none;
  }
  void offer(const Candidate &candidate) {
    if (!(candidate.score >= least_) || candidate.score == none) return;
    if (is_in_order()) return insert(candidate);
    candidates_.push_back(candidate);
    if (candidates_.size() >= 2 * width_ + 16) keep_best();
  }
  // Few candidates are kept in order. So what the next one needs is known at any time, and few are
  // looked at that leave again.
  bool is_in_order() const { return width_ <= 32; }
  void insert(const Candidate &candidate) {
    const std::int64_t place = std::int64_t(candidates_.size());
    candidates_.push_back(candidate);
    if (!kernel_.insert(scores_.data(), places_.data(), Size(width_), candidate.score, place)) insert_equal(place);
    if (candidates_.size() >= width_) need(scores_[width_ - 1]);
  }
  void insert_equal(std::int64_t place) {
    const Candidate &candidate = candidates_[std::size_t(place)];
    const auto is_before = [&](std::size_t at) {
      const double score = scores_[at];
      return score == none || comes_first(candidate, candidates_[std::size_t(places_[at])]);
    };
    std::size_t at = width_;
    for (; at > 0 && is_before(at - 1); at--) scores_[at] = scores_[at - 1], places_[at] = places_[at - 1];
    scores_[at] = candidate.score, places_[at] = place;
    scores_[width_] = none;
  }
  void keep_best() {
    if (is_in_order() || candidates_.size() <= width_) return;
    scores_.clear();
    for (const Candidate &each : candidates_) scores_.push_back(each.score);
    const double last = largest_but(width_ - 1, scores_, smaller_);
    // Those that are equal to the last one that stays go to the end.
    std::size_t count = 0;
    equal_.clear();
    for (const Candidate &each : candidates_) {
      const double score = each.score;
      if (score == last) equal_.push_back(each);
      candidates_[count] = each;
      count += score > last;
    }
    const auto more = equal_.begin() + std::ptrdiff_t(width_ - count);
    if (more != equal_.end()) std::nth_element(equal_.begin(), more - 1, equal_.end(), comes_first);
    candidates_.resize(count);
    candidates_.insert(candidates_.end(), equal_.begin(), more);
    need(last);
  }
  // In order.
  void sort() {
    chosen_.clear();
    if (is_in_order()) {
      for (std::size_t k = 0; k < width_ && scores_[k] > none; k++) chosen_.push_back(candidates_[std::size_t(places_[k])]);
    } else {
      places_.resize(candidates_.size());
      std::iota(places_.begin(), places_.end(), 0);
      std::sort(places_.begin(), places_.end(), [this](std::int64_t a, std::int64_t b) {
        return comes_first(candidates_[std::size_t(a)], candidates_[std::size_t(b)]);
      });
      for (std::int64_t place : places_) chosen_.push_back(candidates_[std::size_t(place)]);
    }
    std::swap(candidates_, chosen_);
  }
  void rank(const double *p);
  bool may_be_new(const double *p, std::int32_t label) const {
    if (label == batch_.blank || p[label] == none) return false;
    return p[label] != last_p_ ? p[label] > last_p_ : label <= last_label_;
  }
  void offer_entries(const double *p);
  void offer_classes(const double *p);
  void choose();

  struct Ahead {
    double before, most;  // what is added to all labels; and at most, besides phrases and the label
    const Rows::Row *row;
  };

  const Batch &batch_;
  const ctcx::Kernel &kernel_;
  const ctcx_cpu_ngrams *model_;
  const std::size_t width_;
  std::unique_ptr<PhraseStates> phrases_;
  const PhraseStates::Seen no_phrase_{};
  PrefixTree tree_;
  std::vector<std::int32_t> base_;  // what all prefixes begin with
  std::vector<Entry> entries_, next_, staying_;
  std::vector<Ahead> ahead_;
  std::vector<Candidate> candidates_, chosen_, equal_;
  std::vector<double> smaller_, scores_;  // of the best candidates, if they are kept in order
  std::vector<std::int64_t> places_;  // of these, in `candidates_`
  std::vector<std::int32_t> first_child_, next_child_;  // slots
  std::vector<std::int32_t> classes_, ranked_, nodes_;
  Rows rows_;
  const std::vector<double> nothing_, &from_start_;  // of each class
  std::vector<double> new_;                          // of each class; none for those that make no new prefixes
  std::vector<std::int32_t> picked_;
  std::vector<std::int32_t> marks_;  // of each class, the last entry of which the prefix with it is in the beam
  std::vector<double> into_, stay_, total_;  // of each entry, and room for a vector
  double least_ = none, needed_ = none, last_p_ = none;
  std::int32_t last_label_ = INT32_MAX;
};

void GuidedBeam::begin_empty() {
  Entry entry;
  entry.blank = entry.total = 0;
  if (model_) entry.words = model_->start();
  look_ahead(entry);
  tree_[0].slot = 0;
  entries_.push_back(std::move(entry));
}

bool GuidedBeam::begin(const std::int32_t *labels, Size positions, const double *numbers, Size apart) {
  // Copied before they are checked, as all integers are: see ctcx_cpu.h.
  std::vector<std::vector<std::int32_t>> prefixes;
  std::vector<Entry> read;
  Size common = positions;
  for (std::size_t i = 0; i < width_; i++) {
    const double blank = numbers[i], label = numbers[i + apart], bonus = numbers[i + 2 * apart];
    if (!(blank < 1) || !(label < 1) || !std::isfinite(bonus)) return false;
    if (std::max(blank, label) == none) continue;
    if (prefixes.size() != i) return false;  // the first places are taken first
    const std::int32_t *row = labels + Size(i) * positions;
    std::vector<std::int32_t> prefix(row, std::find(row, row + positions, -1));
    for (std::int32_t c : prefix)
      if (c < 0 || c >= batch_.classes || c == batch_.blank) return false;
    prefixes.push_back(std::move(prefix));
    const std::vector<std::int32_t> &one = prefixes.back(), &first = prefixes[0];
    common = std::mismatch(one.begin(), one.begin() + std::min(common, Size(one.size())), first.begin()).first - one.begin();
    read.push_back({});
    read.back().blank = blank, read.back().label = label, read.back().bonus = bonus;
  }
  if (prefixes.empty()) return true;
  Entry all;
  base_.assign(prefixes[0].begin(), prefixes[0].begin() + common);
  if (model_) all.words = model_->start();
  // A state tells as many labels as the longest phrase has, and these about as many more.
  const Size far = phrases_ ? 2 * batch_.phrases->longest() : 0;
  for (Size k = 0; k < common; k++) add_label(all, base_[k], common - k <= far);
  for (std::size_t i = 0; i < prefixes.size(); i++) {
    Entry entry = all;
    const std::vector<std::int32_t> &prefix = prefixes[i];
    const Size count = Size(prefix.size());
    entry.blank = read[i].blank, entry.label = read[i].label, entry.bonus = read[i].bonus;
    stay_[0] = entry.blank, into_[0] = entry.label;
    kernel_.log_sums(stay_.data(), into_.data(), 1, total_.data());
    entry.total = total_[0];
    entry.last = count > 0 ? prefix.back() : -1;
    if (count - common > far) entry.phrase = 0;
    for (Size k = common; k < count; k++) {
      entry.node = tree_.child(entry.node, prefix[k]);
      add_label(entry, prefix[k], count - k <= far);
    }
    if (tree_[entry.node].slot >= 0) return false;  // the same prefix twice
    tree_[entry.node].slot = std::int32_t(i);
    look_ahead(entry);
    entries_.push_back(std::move(entry));
  }
  return true;
}

void GuidedBeam::advance(const double *p) {
  if (entries_.empty()) return;
  candidates_.clear();
  if (is_in_order()) {
    scores_.assign(width_ + ctcx::most_lanes, none);
    places_.assign(scores_.size(), 0);
  }
  least_ = needed_ = none;
  if (model_ && !model_->is_of_words()) rows_.forget_many();
  if (phrases_ && phrases_->are_many()) {
    std::vector<std::int32_t *> numbers;
    for (Entry &entry : entries_) numbers.push_back(&entry.phrase);
    phrases_->keep_only(numbers);
  }
  rank(p);
  offer_entries(p);
  offer_classes(p);
  choose();
}

// Finds the last label, in their order, that may make new prefixes.
void GuidedBeam::rank(const double *p) {
  last_p_ = none, last_label_ = INT32_MAX;
  if (batch_.most_labels >= batch_.classes - 1) return;
  ranked_.clear();
  for (Size c = 0; c < batch_.classes; c++)
    if (c != batch_.blank) ranked_.push_back(std::int32_t(c));
  const auto last = ranked_.begin() + std::ptrdiff_t(batch_.most_labels) - 1;
  std::nth_element(ranked_.begin(), last, ranked_.end(),
                   [p](std::int32_t a, std::int32_t b) { return p[a] != p[b] ? p[a] > p[b] : a < b; });
  last_p_ = p[*last], last_label_ = *last;
}

void GuidedBeam::offer_entries(const double *p) {
  const std::size_t count = entries_.size();
  first_child_.assign(count, -1), next_child_.assign(count, -1);
  staying_.resize(count);
  for (std::size_t i = 0; i < count; i++) {
    const Entry &entry = entries_[i];
    stay_[i] = entry.label, into_[i] = none;
    if (const std::int32_t parent = tree_[entry.node].parent; parent >= 0 && tree_[parent].slot >= 0) {
      const std::int32_t j = tree_[parent].slot;
      into_[i] = entries_[j].last == entry.last ? entries_[j].blank : entries_[j].total;
      next_child_[i] = first_child_[j], first_child_[j] = std::int32_t(i);
    }
  }
  kernel_.log_sums(stay_.data(), into_.data(), Size(count), into_.data());
  for (std::size_t i = 0; i < count; i++) {
    const Entry &entry = entries_[i];
    staying_[i].blank = stay_[i] = entry.total + p[batch_.blank];
    staying_[i].label = into_[i] = entry.last >= 0 ? into_[i] + p[entry.last] : none;
  }
  kernel_.log_sums(stay_.data(), into_.data(), Size(count), total_.data());
  double least = infinity;
  for (std::size_t i = 0; i < count; i++) {
    staying_[i].total = total_[i];
    const double score = total_[i] + entries_[i].bonus;
    least = std::min(least, score);
    offer({score, 0, -1, std::int32_t(i), -1});
  }
  if (count == width_) need(least);
}

void GuidedBeam::offer_classes(const double *p) {
  double most = none;
  ahead_.clear();
  for (const Entry &entry : entries_) {
    const double before = entry.bonus + batch_.label_bonus;
    const Rows::Row *row = model_ && !model_->is_of_words() ? &rows_[entry.words.context] : nullptr;
    const double of_model = row ? batch_.ngrams_weight * row->largest : std::max(entry.of_spelled, 0.0);
    ahead_.push_back({before, entry.total + before + of_model, row});
    if (!has_rows()) most = std::max(most, ahead_.back().most + phrase_of(entry).refund);
  }
  std::copy_n(p, batch_.classes, new_.begin());
  new_[std::size_t(batch_.blank)] = none;
  if (batch_.most_labels < batch_.classes - 1)
    for (std::int32_t c = 0; c < std::int32_t(batch_.classes); c++)
      if (!may_be_new(p, c)) new_[std::size_t(c)] = none;
  const double largest = has_rows() ? none : largest_of(new_);
  std::fill(marks_.begin(), marks_.end(), -1);
  for (std::size_t i = 0; i < entries_.size(); i++) {
    const Entry &entry = entries_[i];
    const auto [before, most_here, row] = ahead_[i];
    const auto make = [&, before = before, row = row](std::int32_t c, double gain, std::int32_t goes_on) {
      if (marks_[std::size_t(c)] == std::int32_t(i)) return;  // it is in the beam
      const double came = (c == entry.last ? entry.blank : entry.total) + p[c];
      const double bonus = before + gain + of_model(entry, row, c);
      offer({came + bonus, p[c], c, std::int32_t(i), goes_on});
    };
    for (std::int32_t j = first_child_[i]; j >= 0; j = next_child_[j])
      marks_[std::size_t(entries_[j].last)] = std::int32_t(i);
    // What may be enough is picked first, without a branch for each: none of them could be foreseen.
    if (has_rows()) {
      const double *gains = row_of(entry);
      const Size count = kernel_.pick(new_.data(), gains, most_here, needed_, batch_.classes, picked_.data());
      for (Size j = 0; j < count; j++) make(picked_[j], gains[picked_[j]], -1);
      continue;
    }
    const PhraseStates::Seen &phrase = phrase_of(entry);
    std::size_t count = 0;
    for (std::size_t k = 0; k < phrase.following.size(); k++) {
      const PhraseStates::Following &each = phrase.following[k];
      if (!(largest + each.gain + most_here >= needed_)) break;
      picked_[count] = std::int32_t(k);
      count += new_[std::size_t(each.label)] + each.gain + most_here >= needed_;
    }
    for (std::size_t j = 0; j < count; j++) {
      const PhraseStates::Following &each = phrase.following[std::size_t(picked_[j])];
      const bool may_be = new_[std::size_t(each.label)] > none;  // if nothing is needed, all are picked
      if (may_be) make(each.label, each.gain, picked_[j]);
    }
    // Others: the first entry shows how much is needed, and leaves few labels for those after it.
    const double other = phrase.refund + most_here;
    count = 0;
    if (i == 0) {
      count = std::size_t(kernel_.pick(new_.data(), from_start_.data(), other, needed_, batch_.classes, picked_.data()));
    } else {
      for (std::int32_t c : classes_) {
        picked_[count] = c;
        count += p[c] + from_start_[std::size_t(c)] + other >= needed_;
      }
    }
    for (std::size_t j = 0; j < count; j++) {
      const std::int32_t c = picked_[j];
      if (!phrase.has(c)) make(c, from_start_[std::size_t(c)] + phrase.refund, -1);
    }
    if (i > 0) continue;
    keep_best();
    classes_.resize(std::size_t(batch_.classes));
    classes_.resize(std::size_t(kernel_.pick(new_.data(), from_start_.data(), most, needed_, batch_.classes, classes_.data())));
  }
}

void GuidedBeam::choose() {
  keep_best();
  sort();
  if (phrases_ && has_rows())
    for (const Candidate &each : candidates_)
      if (each.label >= 0) phrases_->fetch_after(entries_[std::size_t(each.slot)].phrase, each.label);
  next_.clear();
  next_.resize(candidates_.size());
  for (std::size_t k = 0; k < candidates_.size(); k++) {
    const auto [score, p, label, slot, goes_on] = candidates_[k];
    if (label < 0) continue;
    const Entry &before = entries_[slot];
    Entry &entry = next_[k];
    entry.label = entry.total = (label == before.last ? before.blank : before.total) + p;
    const double gain = gain_of(candidates_[k]);
    entry.bonus = before.bonus + batch_.label_bonus + gain + of_model(before, ahead_[slot].row, label);
    entry.node = tree_.child(before.node, label), entry.last = label;
    if (phrases_) entry.phrase = after(candidates_[k]);
    if (has_rows())  // the next frame needs it
      for (Size c = 0; c < batch_.classes; c += 8) __builtin_prefetch(row_of(entry) + c);
    if (model_) entry.words = model_->after(before.words, label);
    look_ahead(entry);
  }
  nodes_.clear();
  for (const Entry &entry : entries_) nodes_.push_back(entry.node);
  for (std::size_t k = 0; k < candidates_.size(); k++) {
    if (candidates_[k].label >= 0) continue;
    const std::int32_t slot = candidates_[k].slot;
    next_[k] = std::move(entries_[slot]);
    next_[k].blank = staying_[slot].blank, next_[k].label = staying_[slot].label, next_[k].total = staying_[slot].total;
  }
  for (std::int32_t node : nodes_) tree_[node].slot = -1;
  for (std::size_t k = 0; k < next_.size(); k++) tree_[next_[k].node].slot = std::int32_t(k);
  for (std::int32_t node : nodes_) tree_.prune(node);
  std::swap(entries_, next_);
}

void GuidedBeam::write(std::int32_t *labels, Size positions, double *numbers, Size apart) const {
  const Entry nobody;
  std::vector<std::int32_t> reversed;
  for (std::size_t i = 0; i < width_; i++, labels += positions, numbers++) {
    std::fill_n(labels, positions, -1);
    const bool is_there = i < entries_.size();
    const Entry &entry = is_there ? entries_[i] : nobody;
    numbers[0] = entry.blank, numbers[apart] = entry.label, numbers[2 * apart] = numbers[3 * apart] = entry.bonus;
    if (!is_there) continue;
    reversed.clear();
    for (std::int32_t node = entry.node; node > 0; node = tree_[node].parent) reversed.push_back(tree_[node].label);
    std::reverse_copy(reversed.begin(), reversed.end(), std::copy(base_.begin(), base_.end(), labels));
    double &last = numbers[3 * apart];
    if (model_) last += batch_.ngrams_weight * model_->finish(entry.words);
    last += phrase_of(entry).refund;
  }
}

}  // namespace

namespace ctcx {

void guided_search_of(const Batch &batch, Size n, const Kernel &kernel, Scratch &scratch) {
  const Size rows = batch.sequences * batch.width, positions = batch.entry_positions + batch.frames;
  std::int32_t *labels = batch.decoded + n * batch.width * positions;
  double *numbers = batch.result_numbers + n * batch.width;
  const Size frames_a_turn = 1 + (1 << 20) / (batch.classes + 64 * batch.width);
  bool is_right = batch.states[n] != State::wrong;
  GuidedBeam beam(batch, kernel);
  if (!batch.entry_numbers)
    beam.begin_empty();
  else if (is_right)
    is_right = beam.begin(batch.entry_labels + n * batch.width * batch.entry_positions, batch.entry_positions,
                          batch.entry_numbers + n * batch.width, rows);
  std::vector<double> p(std::size_t(batch.classes), 0.0);
  for (Size t = 0; is_right && t < batch.lengths[n]; t++) {
    is_right = kernel.log_probabilities(batch, n, t, scratch, p.data());
    if (is_right) beam.advance(p.data());
    if (t % frames_a_turn == frames_a_turn - 1) pause();
  }
  if (is_right) {
    beam.write(labels, positions, numbers, rows);
    beam.end();
    return;
  }
  std::fill_n(labels, batch.width * positions, -1);
  for (int kind = 0; kind < 4; kind++) std::fill_n(numbers + kind * rows, batch.width, std::nan(""));
}

}  // namespace ctcx
