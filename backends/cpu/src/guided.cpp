#include "guided.h"

#include <algorithm>
#include <cmath>
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

// A candidate is a prefix of the beam, by its place, with a label, or as it stays.
constexpr std::int32_t no_label = -1;
constexpr std::int64_t id_of(std::size_t slot, std::int32_t label) {
  return std::int64_t(slot) << 32 | std::uint32_t(label);
}
constexpr std::int32_t label_of(std::int64_t id) { return std::int32_t(id); }
constexpr std::size_t slot_of(std::int64_t id) { return std::size_t(id >> 32); }

// The best of a frame's candidates. When there are many, those leave that can't be among the best: a score
// is found that enough of them reach, and few more, by counting. That has no branches on random numbers,
// which no processor foresees. So what a candidate needs is nearly known all the time.
class Best {
 public:
  // Between two calls of `leave_few` there is room for so many.
  Best(std::size_t width, std::size_t at_once, const ctcx::Kernel &kernel)
      : width_(width), most_(2 * width + 32), kernel_(kernel), scores_(most_ + at_once + ctcx::most_lanes),
        ids_(scores_.size()), ranks_(most_ + ctcx::most_lanes) {}
  // `p` is of labels. All candidates need `least`. `largest` is about that of the numbers that are added up,
  // besides scores: they may cancel each other, and what they are rounded by remains.
  void begin(const double *p, double least, double largest) {
    p_ = p, count_ = 0, needed_ = none, rounding_ = 1e-9 + 1e-14 * largest;
    need(std::max(least, std::numeric_limits<double>::lowest()));
  }
  // What a candidate must at least have, but for rounding.
  double needed() const { return needed_; }
  void offer(double score, std::int64_t id) {
    scores_[count_] = score, ids_[count_] = id;
    count_ += score >= least_;
  }
  // Where more can be written, none of them NaN or -inf; and how many they are.
  double *more_scores() { return &scores_[count_]; }
  std::int64_t *more_ids() { return &ids_[count_]; }
  void written(Size count) { count_ += std::size_t(count); }
  void leave_few() {
    if (count_ > most_) reduce();
    if (count_ > most_) reduce_equal();
  }
  // In order. Of equal ones, entries come before new prefixes, each in the order of the beam; new prefixes
  // of a more probable label come first, and then those of a lower one.
  const std::vector<std::int64_t> &sorted() {
    leave_few();
    if (count_ > width_ + width_ / 8 + ctcx::most_lanes) reduce();
    order_.assign(count_, -1);
    if (count_ <= 256) {  // comparing all with all takes less time than sorting
      kernel_.ranks(scores_.data(), Size(count_), ranks_.data());
      for (std::int32_t i = 0; i < std::int32_t(count_); i++) {
        std::int32_t last = i, *at = &order_[std::size_t(ranks_[std::size_t(i)])];
        for (; *at >= 0; at++)  // equal ones
          if (comes_first(last, *at)) std::swap(last, *at);
        *at = last;
      }
    } else {
      std::iota(order_.begin(), order_.end(), 0);
      std::sort(order_.begin(), order_.end(), [this](auto a, auto b) { return comes_first(a, b); });
    }
    sorted_.clear();
    for (std::size_t k = 0; k < std::min(count_, width_); k++) sorted_.push_back(ids_[std::size_t(order_[k])]);
    return sorted_;
  }

 private:
  bool comes_first(std::int32_t i, std::int32_t j) const {
    if (scores_[std::size_t(i)] != scores_[std::size_t(j)]) return scores_[std::size_t(i)] > scores_[std::size_t(j)];
    const std::int32_t a = label_of(ids_[std::size_t(i)]), b = label_of(ids_[std::size_t(j)]);
    if (a == b) return slot_of(ids_[std::size_t(i)]) < slot_of(ids_[std::size_t(j)]);
    if (a == no_label || b == no_label) return a == no_label;
    return p_[a] != p_[b] ? p_[a] > p_[b] : a < b;
  }
  void need(double score) {
    least_ = score;
    if (score > std::numeric_limits<double>::lowest()) needed_ = score - (rounding_ + 1e-9 * std::fabs(score));
  }
  void reduce() {
    const double reached = kernel_.reached(scores_.data(), Size(count_), Size(width_));
    count_ = std::size_t(kernel_.keep(scores_.data(), ids_.data(), Size(count_), reached));
    need(reached);
  }
  // Where it can't be found by scores, since many are equal or beyond all numbers.
  __attribute__((noinline)) void reduce_equal() {
    order_.resize(count_);
    std::iota(order_.begin(), order_.end(), 0);
    const auto last = order_.begin() + std::ptrdiff_t(width_) - 1;
    std::nth_element(order_.begin(), last, order_.end(), [this](auto a, auto b) { return comes_first(a, b); });
    const double reached = scores_[std::size_t(*last)];
    std::sort(order_.begin(), last + 1);
    for (std::size_t k = 0; k < width_; k++) {
      const std::size_t i = std::size_t(order_[k]);
      scores_[k] = scores_[i], ids_[k] = ids_[i];
    }
    count_ = width_;
    need(reached);
  }

  const std::size_t width_, most_;
  const ctcx::Kernel &kernel_;
  const double *p_ = nullptr;
  double least_ = none, needed_ = none, rounding_ = 0;
  std::vector<double> scores_;
  std::vector<std::int64_t> ids_, sorted_;
  std::vector<std::int32_t> ranks_, order_;
  std::size_t count_ = 0;
};

// All numbers are logarithms. Sums are made in the order of the core's, so that ties are ties here, too.
class GuidedBeam {
 public:
  GuidedBeam(const Batch &batch, const ctcx::Kernel &kernel)
      : batch_(batch), kernel_(kernel), model_(batch.ngrams_weight > 0 ? batch.ngrams : nullptr),
        width_(std::size_t(batch.width)),
        phrases_(batch.phrases ? batch.phrases->remembered(batch.classes) : nullptr), rows_(model_, batch.width),
        nothing_(std::size_t(batch.classes), 0.0), from_start_(phrases_ ? phrases_->from_start() : nothing_),
        into_(width_ + ctcx::most_lanes), stay_(into_), total_(into_),
        best_(width_, std::size_t(batch.classes) + width_, kernel), left_out_(std::size_t(batch.classes + 63) / 64),
        picked_scores_(std::size_t(batch.classes) + ctcx::most_lanes), picked_(picked_scores_.size()) {}

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
  };
  struct Words {  // of an entry, if there is a model
    ctcx_cpu_ngrams::State state;
    double of_spelled = 0;  // times its weight
    const Rows::Row *row = nullptr;
  };

  // What is spelled says the same until the entry leaves.
  void look_ahead(Words &words) const {
    if (model_->is_of_words()) words.of_spelled = batch_.ngrams_weight * model_->of_spelled(words.state);
  }
  void add_label(Entry &entry, Words &words, std::int32_t label, bool matters) const {
    if (phrases_ && matters) entry.phrase = phrases_->after(entry.phrase, label).state;
    if (model_) words.state = model_->after(words.state, label);
  }
  bool has_rows() const { return batch_.classes <= PhraseStates::most_in_rows; }
  const double *row_of(const Entry &entry) const { return phrases_ ? phrases_->row(entry.phrase) : nothing_.data(); }
  const PhraseStates::Seen &phrase_of(const Entry &entry) const {
    return phrases_ ? (*phrases_)[entry.phrase] : no_phrase_;
  }
  double most_of_phrases(const Entry &entry) const { return phrases_ ? phrases_->most(entry.phrase) : 0; }
  // What a new prefix's label adds by phrases, and the state after it.
  PhraseStates::After after(const Entry &entry, std::int32_t label) {
    if (!phrases_) return {0, 0};
    return phrases_->after(entry.phrase, label);
  }
  double of_model(std::size_t slot, std::int32_t label) const {
    if (!model_) return 0;
    const Words &words = words_[slot];
    if (words.row) return batch_.ngrams_weight * words.row->log_probs[std::size_t(label)];
    return model_->separates(label) ? words.of_spelled : 0;
  }
  // Labels that make no new prefix of an entry.
  void leave_out(std::int32_t c) { left_out_[std::size_t(c) / 64] |= std::uint64_t(1) << c % 64; }
  void let_in(std::int32_t c) { left_out_[std::size_t(c) / 64] = never_new_[std::size_t(c) / 64]; }
  bool is_left_out(std::int32_t c) const { return left_out_[std::size_t(c) / 64] >> c % 64 & 1; }
  void rank(const double *p);
  bool may_be_new(const double *p, std::int32_t label) const {
    if (label == batch_.blank || p[label] == none) return false;
    return p[label] != last_p_ ? p[label] > last_p_ : label <= last_label_;
  }
  void stay(const double *p);
  void offer_entries(const double *p);
  void offer_new(const double *p);
  // Labels that may be enough with their gains, given the most that there can be besides.
  Size pick(const double *p, const double *gains, double most, double refund) {
    return kernel_.pick(p, gains, most, 0, refund, best_.needed(), left_out_.data(), batch_.classes, 0,
                        picked_scores_.data(), picked_.data());
  }
  void find_others(const double *p);
  void choose(const double *p);

  const Batch &batch_;
  const ctcx::Kernel &kernel_;
  const ctcx_cpu_ngrams *model_;
  const std::size_t width_;
  std::unique_ptr<PhraseStates> phrases_;
  const PhraseStates::Seen no_phrase_{};
  PrefixTree tree_;
  std::vector<std::int32_t> base_;  // what all prefixes begin with
  std::vector<Entry> entries_, next_;
  std::vector<Words> words_, next_words_;
  std::vector<double> most_;  // of each entry with a label, besides what label and phrases add
  // Slots: of entries whose parent is in the beam; and of such entries of each. The first child in the tree.
  std::vector<std::int32_t> with_parent_, first_child_, next_child_, children_;
  std::vector<std::int32_t> others_, ranked_;  // labels
  Rows rows_;
  const std::vector<double> nothing_, &from_start_;  // of each class
  std::vector<double> into_, stay_, total_;          // of each entry as it stays, and room for a vector
  Best best_;
  std::vector<std::uint64_t> left_out_, never_new_;  // a bit for each class; of the current entry, and of all
  std::vector<double> picked_scores_;
  std::vector<std::int64_t> picked_;
  double last_p_ = none;
  std::int32_t last_label_ = INT32_MAX;
};

void GuidedBeam::begin_empty() {
  Entry entry;
  entry.blank = entry.total = 0;
  if (model_) words_.push_back({model_->start()}), look_ahead(words_[0]);
  tree_[0].slot = 0;
  entries_.push_back(entry);
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
  Words all_words;
  base_.assign(prefixes[0].begin(), prefixes[0].begin() + common);
  if (model_) all_words.state = model_->start();
  // A state tells as many labels as the longest phrase has, and these about as many more.
  const Size far = phrases_ ? 2 * batch_.phrases->longest() : 0;
  for (Size k = 0; k < common; k++) add_label(all, all_words, base_[k], common - k <= far);
  for (std::size_t i = 0; i < prefixes.size(); i++) {
    Entry entry = all;
    Words words = all_words;
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
      add_label(entry, words, prefix[k], count - k <= far);
    }
    if (tree_[entry.node].slot >= 0) return false;  // the same prefix twice
    tree_[entry.node].slot = std::int32_t(i);
    entries_.push_back(entry);
    if (model_) look_ahead(words), words_.push_back(std::move(words));
  }
  return true;
}

void GuidedBeam::advance(const double *p) {
  if (entries_.empty()) return;
  if (model_ && !model_->is_of_words()) rows_.forget_many();
  if (phrases_ && phrases_->are_many()) {
    std::vector<std::int32_t *> numbers;
    for (Entry &entry : entries_) numbers.push_back(&entry.phrase);
    phrases_->keep_only(numbers);
  }
  rank(p);
  stay(p);
  offer_entries(p);
  offer_new(p);
  choose(p);
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

void GuidedBeam::stay(const double *p) {
  const std::size_t count = entries_.size();
  first_child_.assign(count, -1), next_child_.assign(count, -1), children_.resize(count);
  with_parent_.clear();
  for (std::size_t i = 0; i < count; i++) {
    const std::int32_t parent = tree_[entries_[i].node].parent;
    children_[i] = tree_[entries_[i].node].first[0];
    if (parent < 0 || tree_[parent].slot < 0) continue;
    const std::int32_t j = tree_[parent].slot, k = std::int32_t(with_parent_.size());
    next_child_[i] = first_child_[j], first_child_[j] = std::int32_t(i);
    stay_[k] = entries_[i].label;
    total_[k] = entries_[j].last == entries_[i].last ? entries_[j].blank : entries_[j].total;
    with_parent_.push_back(std::int32_t(i));
  }
  kernel_.log_sums(stay_.data(), total_.data(), Size(with_parent_.size()), total_.data());
  for (std::size_t i = 0; i < count; i++) {
    const Entry &entry = entries_[i];
    stay_[i] = entry.total + p[batch_.blank];
    into_[i] = entry.last >= 0 ? entry.label + p[entry.last] : none;
  }
  for (std::size_t k = 0; k < with_parent_.size(); k++) {
    const std::int32_t i = with_parent_[k];
    into_[i] = total_[k] + p[entries_[i].last];
  }
  kernel_.log_sums(stay_.data(), into_.data(), Size(count), total_.data());
}

void GuidedBeam::offer_entries(const double *p) {
  double least = infinity, bonus = 0, of_models = 0;
  most_.clear();
  for (std::size_t i = 0; i < entries_.size(); i++) {
    const Entry &entry = entries_[i];
    double of_model = 0;
    if (model_) {
      Words &words = words_[i];
      words.row = model_->is_of_words() ? nullptr : &rows_[words.state.context];
      of_model = words.row ? batch_.ngrams_weight * words.row->largest : std::max(words.of_spelled, 0.0);
    }
    most_.push_back(entry.total + (entry.bonus + batch_.label_bonus) + of_model);
    bonus = std::max(bonus, std::fabs(entry.bonus)), of_models = std::max(of_models, of_model);
    least = std::min(least, total_[i] + entry.bonus);
  }
  const double of_phrases = phrases_ ? batch_.phrases->most_at_once() : 0;
  best_.begin(p, entries_.size() == width_ ? least : none,
              bonus + std::fabs(batch_.label_bonus) + of_phrases + of_models);
  for (std::size_t i = 0; i < entries_.size(); i++) best_.offer(total_[i] + entries_[i].bonus, id_of(i, no_label));
}

void GuidedBeam::offer_new(const double *p) {
  left_out_.assign(left_out_.size(), 0);
  leave_out(std::int32_t(batch_.blank));
  if (batch_.most_labels < batch_.classes - 1)
    for (std::int32_t c = 0; c < std::int32_t(batch_.classes); c++)
      if (!may_be_new(p, c)) leave_out(c);
  never_new_ = left_out_;
  const double largest = kernel_.largest(p, batch_.classes, batch_.blank);
  bool is_first = true;
  for (std::size_t i = 0; i < entries_.size(); i++) {
    best_.leave_few();
    const Entry &entry = entries_[i];
    // The others can't be enough, however probable the label is.
    if (largest + most_[i] + most_of_phrases(entry) < best_.needed()) continue;
    // Those are in the beam.
    for (std::int32_t j = first_child_[i]; j >= 0; j = next_child_[j]) leave_out(entries_[j].last);
    const double before = entry.bonus + batch_.label_bonus;
    const auto make = [&](std::int32_t c, double gain) {
      if (is_left_out(c)) return;
      const double came = (c == entry.last ? entry.blank : entry.total) + p[c];
      best_.offer(came + (before + gain + of_model(i, c)), id_of(i, c));
    };
    const auto make_all = [&](const double *gains, double refund) {
      if (!model_) {
        best_.written(kernel_.pick(p, gains, entry.total, before, refund, best_.needed(), left_out_.data(),
                                   batch_.classes, id_of(i, 0), best_.more_scores(), best_.more_ids()));
        return;
      }
      const Size count = pick(p, gains, most_[i], refund);
      for (Size j = 0; j < count; j++) make(label_of(picked_[j]), gains[label_of(picked_[j])] + refund);
    };
    if (has_rows()) {
      const double *gains = row_of(entry);
      if (entry.last >= 0) make(entry.last, gains[entry.last]), leave_out(entry.last);  // it repeats
      make_all(gains, 0);
      if (entry.last >= 0) let_in(entry.last);
    } else {
      const PhraseStates::Seen &phrase = phrase_of(entry);
      for (const PhraseStates::Following &each : phrase.following) {
        if (largest + each.gain + most_[i] < best_.needed()) break;
        make(each.label, each.gain);
      }
      const auto make_other = [&](std::int32_t c) {
        if (!phrase.has(c)) make(c, from_start_[std::size_t(c)] + phrase.refund);
      };
      if (is_first) {
        if (entry.last >= 0) make_other(entry.last), leave_out(entry.last);
        for (std::size_t k = 0; k < phrase.bits.size(); k++) left_out_[k] |= phrase.bits[k];
        make_all(from_start_.data(), phrase.refund);
        left_out_ = never_new_;
        best_.leave_few();
        find_others(p);  // since it is known now how much is needed
        is_first = false;
      } else {
        const double other = phrase.refund + most_[i];
        std::size_t count = 0;
        for (std::int32_t c : others_) {  // without a branch for each, since none of them could be foreseen
          picked_[count] = c;
          count += p[c] + from_start_[std::size_t(c)] + other >= best_.needed();
        }
        for (std::size_t j = 0; j < count; j++) make_other(label_of(picked_[j]));
      }
    }
    for (std::int32_t j = first_child_[i]; j >= 0; j = next_child_[j]) let_in(entries_[j].last);
  }
}

// Labels that may be enough for an entry whose phrases they break off.
void GuidedBeam::find_others(const double *p) {
  double most = none;
  for (std::size_t i = 0; i < entries_.size(); i++) most = std::max(most, most_[i] + phrase_of(entries_[i]).refund);
  others_.clear();
  const Size count = pick(p, from_start_.data(), most, 0);
  for (Size j = 0; j < count; j++) others_.push_back(label_of(picked_[j]));
}

void GuidedBeam::choose(const double *p) {
  const std::vector<std::int64_t> &chosen = best_.sorted();
  if (phrases_ && has_rows())
    for (std::int64_t each : chosen)
      if (label_of(each) != no_label) phrases_->fetch_after(entries_[slot_of(each)].phrase, label_of(each));
  next_.resize(chosen.size());
  for (std::size_t k = 0; k < chosen.size(); k++) {
    const std::int32_t label = label_of(chosen[k]);
    const std::size_t slot = slot_of(chosen[k]);
    const Entry &before = entries_[slot];
    Entry &entry = next_[k];
    if (label == no_label) {
      entry = before;
      entry.blank = stay_[slot], entry.label = into_[slot], entry.total = total_[slot];
      continue;
    }
    entry.blank = none;
    entry.label = entry.total = (label == before.last ? before.blank : before.total) + p[label];
    const PhraseStates::After phrase = after(before, label);
    entry.bonus = before.bonus + batch_.label_bonus + phrase.gain + of_model(slot, label);
    entry.node = tree_.child(before.node, label, children_[slot]), entry.last = label;
    entry.phrase = phrase.state;
    if (has_rows())  // the next frame needs it
      for (Size c = 0; c < batch_.classes; c += 8) __builtin_prefetch(row_of(entry) + c);
  }
  if (model_) {
    next_words_.resize(chosen.size());
    for (std::size_t k = 0; k < chosen.size(); k++) {
      if (label_of(chosen[k]) == no_label) continue;
      next_words_[k].state = model_->after(words_[slot_of(chosen[k])].state, label_of(chosen[k]));
      look_ahead(next_words_[k]);
    }
    for (std::size_t k = 0; k < chosen.size(); k++)
      if (label_of(chosen[k]) == no_label) next_words_[k] = std::move(words_[slot_of(chosen[k])]);
    std::swap(words_, next_words_);
  }
  for (const Entry &entry : entries_) tree_[entry.node].slot = -1;
  for (std::size_t k = 0; k < next_.size(); k++) tree_[next_[k].node].slot = std::int32_t(k);
  for (const Entry &entry : entries_) tree_.prune(entry.node);
  std::swap(entries_, next_);
}

void GuidedBeam::write(std::int32_t *labels, Size positions, double *numbers, Size apart) const {
  const Entry nobody;
  // Most labels are those that the first entry begins with, too.
  std::vector<std::int32_t> first = base_, reversed, depths(tree_.size(), -1);  // of nodes on its path
  depths[0] = std::int32_t(base_.size());
  for (std::size_t i = 0; i < width_; i++, labels += positions, numbers++) {
    const bool is_there = i < entries_.size();
    const Entry &entry = is_there ? entries_[i] : nobody;
    numbers[0] = entry.blank, numbers[apart] = entry.label, numbers[2 * apart] = numbers[3 * apart] = entry.bonus;
    std::int32_t *end = labels;
    if (is_there) {
      reversed.clear();
      std::int32_t node = entry.node;
      for (; depths[node] < 0; node = tree_[node].parent) reversed.push_back(tree_[node].label);
      end = std::reverse_copy(reversed.begin(), reversed.end(), std::copy_n(first.begin(), depths[node], labels));
    }
    std::fill(end, labels + positions, -1);
    if (!is_there) continue;
    if (i == 0) {
      first.assign(labels, end);
      std::int32_t depth = std::int32_t(first.size());
      for (std::int32_t node = entry.node; node > 0; node = tree_[node].parent) depths[node] = depth--;
    }
    double &last = numbers[3 * apart];
    if (model_) last += batch_.ngrams_weight * model_->finish(words_[i].state);
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
