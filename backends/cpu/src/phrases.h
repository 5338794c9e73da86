// Phrases that a beam search prefers: made once and then only read; and what searches remember of them.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ctcx_cpu.h"

// Where a prefix stands: the automaton's node is its longest end that begins a phrase; and for each of
// that end's labels the weight in whole phrases, -infinity for none.
struct PhraseState {
  std::int32_t node = 0;
  std::vector<double> weights;
  bool operator<(const PhraseState &other) const {
    return node != other.node ? node < other.node : weights < other.weights;
  }
};

class PhraseStates;

// An automaton of Aho and Corasick. Each label of a prefix has the largest weight of the phrases that
// it stands in; the last labels, which may begin phrases, have those weights as if they were whole.
struct ctcx_cpu_phrases {
  struct Step {
    PhraseState state;
    double gain;  // how much more the prefix has than before
  };

  ~ctcx_cpu_phrases();
  // False if a phrase is none.
  bool build(const std::int32_t *labels, const std::int64_t *lengths, const double *weights, std::int64_t count);
  std::int32_t largest_label() const { return largest_label_; }
  std::int64_t longest() const { return longest_; }
  // A label adds no more, nor takes more away.
  double most_at_once() const { return 2 * double(longest_) * largest_weight_; }
  Step step(const PhraseState &state, std::int32_t label) const;
  // What is to be added if the phrases that the labels begin break off.
  double refund(const PhraseState &state) const;
  // The labels that go on with those phrases, in order.
  std::vector<std::int32_t> following(const PhraseState &state) const;
  // The labels that begin phrases.
  std::vector<std::int32_t> starts() const;

  // What an earlier search of so many classes has remembered, for the caller alone; and keeps it for the
  // next one.
  std::unique_ptr<PhraseStates> remembered(std::int64_t classes) const;
  void remember(std::unique_ptr<PhraseStates> states) const;

 private:
  struct Node {
    std::int32_t fail = 0, label = -1, parent = -1;
    double largest;                  // weight of the phrases that go on
    std::vector<double> unfinished;  // of the node's labels, in phrases that aren't whole
    std::vector<std::pair<std::int32_t, double>> ends;  // lengths and weights of phrases
    std::vector<std::int32_t> children;
  };
  std::int32_t child(std::int32_t node, std::int32_t label) const;  // or -1
  std::int32_t next(std::int32_t node, std::int32_t label) const;
  double value(const PhraseState &state) const;

  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, std::int32_t> edges_;
  std::int32_t largest_label_ = -1;
  std::int64_t longest_ = 0;
  double largest_weight_ = 0;  // in size
  // Without a lock, which could be held for ever in a child that is forked meanwhile.
  mutable std::atomic<PhraseStates *> kept_[8] = {};
};

// The states that searches have seen, by number, and what each says of labels. For one search at a time.
class PhraseStates {
 public:
  // Of up to so many classes, what each of them adds after a state is kept in a row; of more, what the
  // labels add that go on with phrases: what others add is that of the start, and the refund.
  static constexpr std::int64_t most_in_rows = 128;

  struct Following {
    std::int32_t label;
    mutable std::int32_t next;  // a state, -1 until it is asked for
    double gain;
  };
  struct Seen {
    PhraseState state;
    double refund;
    std::vector<Following> following;  // the labels that go on with phrases, the largest gains first; unless in rows
    std::vector<std::uint64_t> bits;   // a bit for each of them
    bool has(std::int32_t label) const {
      const std::size_t word = std::size_t(label) / 64;
      return word < bits.size() && bits[word] >> (label % 64) & 1;
    }
  };

  PhraseStates(const ctcx_cpu_phrases &phrases, std::int64_t classes);
  std::int64_t classes() const { return std::int64_t(from_start_.size()); }
  const Seen &operator[](std::int32_t number) const { return *seen_[std::size_t(number)]; }
  std::int32_t number_of(PhraseState state);
  bool has_rows() const { return classes() <= most_in_rows; }
  const double *row(std::int32_t number) const { return &rows_[std::size_t(number) * from_start_.size()]; }
  // At most, what a label adds after it.
  double most(std::int32_t number) const { return most_gains_[std::size_t(number)]; }
  // What a label adds, and the state after it.
  struct After {
    double gain;
    std::int32_t state;
  };
  After after(std::int32_t number, std::int32_t label);
  // Has memory fetch, with rows, which state that is.
  void fetch_after(std::int32_t number, std::int32_t label) const {
    __builtin_prefetch(&next_[std::size_t(number) * from_start_.size() + std::size_t(label)]);
  }
  // What labels that go on with nothing add, besides the refund.
  const std::vector<double> &from_start() const { return from_start_; }
  bool are_many() const { return size_ > most_; }
  // Forgets all but these, whose numbers change.
  void keep_only(const std::vector<std::int32_t *> &numbers);

 private:
  // After a label that goes on with nothing.
  std::int32_t after_start(std::int32_t label);

  const ctcx_cpu_phrases &phrases_;
  std::vector<double> from_start_;
  std::vector<std::int32_t> after_start_;
  std::vector<double> rows_, most_gains_;  // of each state
  std::vector<std::int32_t> next_;  // the states after labels, -1 until one is asked for, in such rows
  std::vector<std::unique_ptr<Seen>> seen_;
  std::map<PhraseState, std::int32_t> numbers_;
  // About, in numbers.
#ifdef CTCX_CPU_FORGETS_PHRASES  // so that tests see it
  std::size_t size_ = 0, most_ = 128;
#else
  std::size_t size_ = 0, most_ = std::size_t(1) << 20;
#endif
};
