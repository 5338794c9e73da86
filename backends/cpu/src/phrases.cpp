#include "phrases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace {

constexpr double none = -std::numeric_limits<double>::infinity();
constexpr std::int32_t most_nodes = std::numeric_limits<std::int32_t>::max();

std::uint64_t pair(std::int32_t node, std::int32_t label) {
  return std::uint64_t(std::uint32_t(node)) << 32 | std::uint32_t(label);
}

void add_weight(double &sum, double weight) {
  if (weight > none) sum += weight;
}

}  // namespace

ctcx_cpu_phrases::~ctcx_cpu_phrases() {
  for (std::atomic<PhraseStates *> &place : kept_) delete place.load();
}

bool ctcx_cpu_phrases::build(const std::int32_t *labels, const std::int64_t *lengths, const double *weights,
                             std::int64_t count) {
  if (count < 0) return false;
  nodes_.assign(1, {});
  nodes_[0].largest = none;
  for (std::int64_t k = 0; k < count; k++) {
    const std::int64_t length = lengths[k];
    const double weight = weights[k];
    if (length < 1 || !std::isfinite(weight)) return false;
    std::int32_t node = 0;
    for (std::int64_t i = 0; i < length; i++) {
      const std::int32_t label = *labels++;
      if (label < 0 || label == std::numeric_limits<std::int32_t>::max()) return false;
      nodes_[node].largest = std::max(nodes_[node].largest, weight);
      if (nodes_.size() >= std::size_t(most_nodes)) return false;
      const auto [edge, is_new] = edges_.try_emplace(pair(node, label), std::int32_t(nodes_.size()));
      if (is_new) {
        nodes_[node].children.push_back(edge->second);
        nodes_.emplace_back();
        nodes_.back().label = label, nodes_.back().parent = node, nodes_.back().largest = none;
      }
      node = edge->second;
      largest_label_ = std::max(largest_label_, label);
    }
    longest_ = std::max(longest_, length);
    largest_weight_ = std::max(largest_weight_, std::fabs(weight));
    nodes_[node].ends.push_back({std::int32_t(length), weight});  // as there are so many nodes
  }
  // Nodes nearer to the root come first.
  std::vector<std::int32_t> order = nodes_[0].children;
  for (std::size_t at = 0; at < order.size(); at++) {
    Node &node = nodes_[order[at]];
    if (node.parent > 0) node.fail = next(nodes_[node.parent].fail, node.label);
    const Node &fail = nodes_[node.fail];
    node.ends.insert(node.ends.end(), fail.ends.begin(), fail.ends.end());
    const std::size_t depth = nodes_[node.parent].unfinished.size() + 1;
    node.unfinished.assign(depth - fail.unfinished.size(), none);
    node.unfinished.insert(node.unfinished.end(), fail.unfinished.begin(), fail.unfinished.end());
    for (double &weight : node.unfinished) weight = std::max(weight, node.largest);
    order.insert(order.end(), node.children.begin(), node.children.end());
  }
  return true;
}

std::int32_t ctcx_cpu_phrases::child(std::int32_t node, std::int32_t label) const {
  const auto found = edges_.find(pair(node, label));
  return found == edges_.end() ? -1 : found->second;
}

std::int32_t ctcx_cpu_phrases::next(std::int32_t node, std::int32_t label) const {
  for (;; node = nodes_[node].fail) {
    if (const std::int32_t to = child(node, label); to >= 0) return to;
    if (node == 0) return 0;
  }
}

double ctcx_cpu_phrases::value(const PhraseState &state) const {
  const std::vector<double> &unfinished = nodes_[state.node].unfinished;
  double sum = 0;
  for (std::size_t i = 0; i < unfinished.size(); i++) add_weight(sum, std::max(state.weights[i], unfinished[i]));
  return sum;
}

double ctcx_cpu_phrases::refund(const PhraseState &state) const {
  double whole = 0;
  for (double weight : state.weights) add_weight(whole, weight);
  return whole - value(state);
}

ctcx_cpu_phrases::Step ctcx_cpu_phrases::step(const PhraseState &state, std::int32_t label) const {
  Step found;
  found.state.node = next(state.node, label);
  const Node &node = nodes_[found.state.node];
  const std::size_t depth = node.unfinished.size(), settled = state.weights.size() + 1 - depth;
  double sum = 0;
  for (std::size_t i = 0; i < std::min(settled, state.weights.size()); i++) add_weight(sum, state.weights[i]);
  std::vector<double> &window = found.state.weights;
  if (depth > 0) {
    window.assign(state.weights.begin() + std::ptrdiff_t(settled), state.weights.end());
    window.push_back(none);
  }
  for (const auto &[length, weight] : node.ends)
    for (std::size_t i = depth - std::size_t(length); i < depth; i++) window[i] = std::max(window[i], weight);
  found.gain = sum + value(found.state) - value(state);
  return found;
}

std::vector<std::int32_t> ctcx_cpu_phrases::following(const PhraseState &state) const {
  std::vector<std::int32_t> found;
  for (std::int32_t node = state.node; node > 0; node = nodes_[node].fail)
    for (std::int32_t child : nodes_[node].children) found.push_back(nodes_[child].label);
  std::sort(found.begin(), found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
  return found;
}

std::vector<std::int32_t> ctcx_cpu_phrases::starts() const {
  std::vector<std::int32_t> found;
  for (std::int32_t child : nodes_[0].children) found.push_back(nodes_[child].label);
  return found;
}

std::unique_ptr<PhraseStates> ctcx_cpu_phrases::remembered(std::int64_t classes) const {
  for (std::atomic<PhraseStates *> &place : kept_) {
    std::unique_ptr<PhraseStates> states(place.exchange(nullptr));
    if (states && states->classes() == classes) return states;
  }
  return std::make_unique<PhraseStates>(*this, classes);
}

void ctcx_cpu_phrases::remember(std::unique_ptr<PhraseStates> states) const {
  for (std::atomic<PhraseStates *> &place : kept_) {
    PhraseStates *empty = nullptr;
    if (!place.compare_exchange_strong(empty, states.get())) continue;
    states.release();
    return;
  }
}

// What searches remember

PhraseStates::PhraseStates(const ctcx_cpu_phrases &phrases, std::int64_t classes)
    : phrases_(phrases), from_start_(std::size_t(classes), 0.0), after_start_(std::size_t(classes), 0) {
  for (std::int32_t label : phrases.starts()) {
    from_start_[std::size_t(label)] = phrases.step({}, label).gain;
    after_start_[std::size_t(label)] = -1;
  }
  number_of({});
}

std::int32_t PhraseStates::number_of(PhraseState state) {
  if (const auto found = numbers_.find(state); found != numbers_.end()) return found->second;
  auto seen = std::make_unique<Seen>();
  seen->refund = phrases_.refund(state);
  double most = *std::max_element(from_start_.begin(), from_start_.end()) + seen->refund;
  std::vector<double> row;
  if (has_rows())
    for (double gain : from_start_) row.push_back(gain + seen->refund);
  for (std::int32_t label : phrases_.following(state)) {
    double gain = phrases_.step(state, label).gain;
    if (std::isnan(gain)) gain = none;  // of sums beyond all numbers
    most = std::max(most, gain);
    if (has_rows()) row[std::size_t(label)] = gain;
    else seen->following.push_back({label, -1, gain});
    seen->bits.resize(std::size_t(label) / 64 + 1);  // labels come in order
    seen->bits.back() |= std::uint64_t(1) << (label % 64);
  }
  std::sort(seen->following.begin(), seen->following.end(), [](const Following &a, const Following &b) {
    return a.gain != b.gain ? a.gain > b.gain : a.label < b.label;
  });
  rows_.insert(rows_.end(), row.begin(), row.end());
  next_.resize(rows_.size(), -1);
  most_gains_.push_back(most);
  size_ += 16 + state.weights.size() * 2 + row.size() * 2 + seen->following.size() * 2 + seen->bits.size();
  const std::int32_t number = std::int32_t(seen_.size());
  seen->state = state;
  seen_.push_back(std::move(seen));
  numbers_.emplace(std::move(state), number);
  return number;
}

PhraseStates::After PhraseStates::after(std::int32_t number, std::int32_t label) {
  const Seen &seen = (*this)[number];
  const bool goes_on = seen.has(label);
  const auto state_after = [&] {
    return goes_on ? number_of(phrases_.step(seen.state, label).state) : after_start(label);
  };
  if (has_rows()) {
    const std::size_t at = std::size_t(number) * from_start_.size() + std::size_t(label);
    std::int32_t next = next_[at];
    if (next < 0) next = state_after(), next_[at] = next;  // in this order: the rows may grow
    return {rows_[at], next};
  }
  if (!goes_on) return {from_start_[std::size_t(label)] + seen.refund, state_after()};
  const auto found = std::find_if(seen.following.begin(), seen.following.end(),
                                  [label](const Following &each) { return each.label == label; });
  if (found->next < 0) found->next = state_after();
  return {found->gain, found->next};
}

std::int32_t PhraseStates::after_start(std::int32_t label) {
  std::int32_t &number = after_start_[std::size_t(label)];
  if (number < 0) number = number_of(phrases_.step({}, label).state);
  return number;
}

void PhraseStates::keep_only(const std::vector<std::int32_t *> &numbers) {
  std::vector<std::unique_ptr<Seen>> before;
  before.swap(seen_);
  numbers_.clear(), rows_.clear(), most_gains_.clear(), next_.clear(), size_ = 0;
  number_of({});
  for (std::int32_t label : phrases_.starts()) after_start_[std::size_t(label)] = -1;
  for (std::int32_t *number : numbers) *number = number_of(before[std::size_t(*number)]->state);
  most_ = std::max(most_, 4 * size_);
}
