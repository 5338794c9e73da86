#include "ngrams.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::uint64_t pair(std::int32_t node, std::int32_t word) {
  return std::uint64_t(std::uint32_t(node)) << 32 | std::uint32_t(word);
}

// False if the ends aren't in order, or an array is missing.
bool read_strings(const ctcx_cpu_strings &strings, std::vector<std::string> &to) {
  if (strings.count > 0 && !strings.ends) return false;
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < strings.count; i++) {
    const std::int64_t end = strings.ends[i];
    if (end < first || (end > 0 && !strings.text)) return false;
    to.emplace_back(strings.text + first, std::size_t(end - first));
    first = end;
  }
  return true;
}

}  // namespace

bool ctcx_cpu_ngrams::build(const ctcx_cpu_strings &words, const ctcx_cpu_strings &tokens, std::int64_t separator,
                            std::int32_t order, const std::int32_t *sizes, const std::int32_t *grams,
                            const double *log_probs, const double *back_offs, std::int64_t count) {
  std::vector<std::string> names;
  if (order < 1 || tokens.count < 1 || tokens.count > INT32_MAX || words.count > INT32_MAX) return false;
  if (separator < -1 || separator >= tokens.count) return false;
  if (!read_strings(words, names) || !read_strings(tokens, tokens_)) return false;
  for (std::size_t i = 0; i < names.size(); i++)
    if (!words_.try_emplace(names[i], std::int32_t(i)).second) return false;
  const auto word = [this](const char *name) {
    const auto found = words_.find(name);
    return found == words_.end() ? -1 : found->second;
  };
  const std::int32_t begin = word("<s>");
  unknown_ = word("<unk>"), end_ = word("</s>");
  if (begin < 0 || unknown_ < 0 || end_ < 0) return false;
  nodes_.assign(1, {});
  std::vector<std::int32_t> gram;
  for (std::int64_t k = 0; k < count; k++) {
    const std::int32_t size = sizes[k];
    const double log_prob = log_probs[k], back_off = back_offs[k];
    if (size < 1 || size > order || std::isnan(log_prob) || log_prob == infinity || !std::isfinite(back_off))
      return false;
    gram.assign(grams, grams + size), grams += size;
    for (std::int32_t one : gram)
      if (one < 0 || std::size_t(one) >= names.size()) return false;
    std::int32_t node = 0;
    for (std::int32_t i = 0; i < size - 1; i++) node = make_node(node, gram[std::size_t(i)]);
    Edge &last = make_edge(node, gram.back());
    last.log_prob = log_prob, last.is_gram = true;
    if (size < order) nodes_[std::size_t(make_node(node, gram.back()))].back_off = back_off;
  }
  for (std::int32_t i = 0; i < std::int32_t(names.size()); i++)  // where each search for a word ends
    if (const Edge *one = edge(0, i); !one || !one->is_gram) return false;
  // Shorter contexts first.
  std::vector<std::int32_t> nodes(nodes_.size());
  for (std::size_t i = 0; i < nodes.size(); i++) nodes[i] = std::int32_t(i);
  std::stable_sort(nodes.begin(), nodes.end(), [this](auto a, auto b) { return nodes_[a].depth < nodes_[b].depth; });
  for (std::int32_t node : nodes)
    if (nodes_[node].depth > 1) nodes_[node].suffix = next(nodes_[nodes_[node].parent].suffix, nodes_[node].word);
  start_ = next(0, begin);
  if (separator >= 0) {
    for (const std::string &token : tokens_) separates_.push_back(token == tokens_[separator]);
    return true;
  }
  std::vector<std::vector<std::int32_t>> classes(names.size());
  for (std::size_t c = 0; c < tokens_.size(); c++) {
    word_of_class_.push_back(word_of(tokens_[c]));
    classes[word_of_class_.back()].push_back(std::int32_t(c));
  }
  for (const auto &[key, one] : edges_)
    if (one.is_gram)
      for (std::int32_t c : classes[std::uint32_t(key)]) nodes_[key >> 32].followers.push_back({c, one.log_prob});
  return true;
}

const ctcx_cpu_ngrams::Edge *ctcx_cpu_ngrams::edge(std::int32_t node, std::int32_t word) const {
  const auto found = edges_.find(pair(node, word));
  return found == edges_.end() ? nullptr : &found->second;
}

ctcx_cpu_ngrams::Edge &ctcx_cpu_ngrams::make_edge(std::int32_t node, std::int32_t word) {
  return edges_[pair(node, word)];
}

std::int32_t ctcx_cpu_ngrams::make_node(std::int32_t node, std::int32_t word) {
  Edge &one = make_edge(node, word);
  if (one.node < 0) {
    if (nodes_.size() >= std::size_t(INT32_MAX)) throw std::bad_alloc();
    one.node = std::int32_t(nodes_.size());
    nodes_.emplace_back();
    nodes_.back().parent = node, nodes_.back().word = word, nodes_.back().depth = nodes_[node].depth + 1;
  }
  return one.node;
}

double ctcx_cpu_ngrams::log_prob(std::int32_t node, std::int32_t word) const {
  for (double back_off = 0;; node = nodes_[node].suffix) {
    if (const Edge *one = edge(node, word); one && one->is_gram) return back_off + one->log_prob;
    back_off += nodes_[node].back_off;
  }
}

std::int32_t ctcx_cpu_ngrams::next(std::int32_t node, std::int32_t word) const {
  for (;; node = nodes_[node].suffix) {
    if (const Edge *one = edge(node, word); one && one->node >= 0) return one->node;
    if (node == 0) return 0;
  }
}

std::int32_t ctcx_cpu_ngrams::word_of(const std::string &spelled) const {
  const auto found = words_.find(spelled);
  return found == words_.end() ? unknown_ : found->second;
}

ctcx_cpu_ngrams::State ctcx_cpu_ngrams::after(const State &state, std::int32_t label) const {
  if (!is_of_words()) return {next(state.context, word_of_class_[label]), {}};
  if (!separates(label)) return {state.context, state.spelled + tokens_[label]};
  if (state.spelled.empty()) return state;
  return {next(state.context, word_of(state.spelled)), {}};
}

double ctcx_cpu_ngrams::of_spelled(const State &state) const {
  return state.spelled.empty() ? 0 : log_prob(state.context, word_of(state.spelled));
}

double ctcx_cpu_ngrams::finish(const State &state) const {
  std::int32_t context = state.context;
  if (!state.spelled.empty()) context = next(context, word_of(state.spelled));
  return of_spelled(state) + log_prob(context, end_);
}

void ctcx_cpu_ngrams::row(std::int32_t context, const double *of_suffix, double *to) const {
  const Node &node = nodes_[context];
  if (of_suffix)
    for (std::size_t c = 0; c < tokens_.size(); c++) to[c] = of_suffix[c] + node.back_off;
  for (const auto &[c, log_prob] : node.followers) to[c] = log_prob;
}
