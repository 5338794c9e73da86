// An n-gram model that a beam search asks: made once and then only read.
#pragma once
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ctcx_cpu.h"

// With back-off, of words that are single tokens, or that tokens spell. A node is a context, and an edge
// a word after it.
struct ctcx_cpu_ngrams {
  struct State {
    std::int32_t context = 0;
    std::string spelled;
  };

  // False if this is no model.
  bool build(const ctcx_cpu_strings &words, const ctcx_cpu_strings &tokens, std::int64_t separator,
             std::int32_t order, const std::int32_t *sizes, const std::int32_t *grams, const double *log_probs,
             const double *back_offs, std::int64_t count);
  std::int64_t classes() const { return std::int64_t(tokens_.size()); }
  bool is_of_words() const { return !separates_.empty(); }
  bool separates(std::int32_t label) const { return separates_[std::size_t(label)] != 0; }
  State start() const { return {start_, {}}; }
  State after(const State &state, std::int32_t label) const;
  double finish(const State &state) const;
  // Of what is spelled, as a whole word; 0 for nothing.
  double of_spelled(const State &state) const;
  // Of each class after a context, given those after the context's suffix; for words of single tokens.
  void row(std::int32_t context, const double *of_suffix, double *to) const;
  std::int32_t suffix(std::int32_t context) const { return nodes_[context].suffix; }

 private:
  struct Node {
    std::int32_t suffix = 0, parent = -1, word = -1, depth = 0;
    double back_off = 0;
    std::vector<std::pair<std::int32_t, double>> followers;  // classes
  };
  struct Edge {
    double log_prob = 0;
    bool is_gram = false;
    std::int32_t node = -1;
  };
  const Edge *edge(std::int32_t node, std::int32_t word) const;
  Edge &make_edge(std::int32_t node, std::int32_t word);
  std::int32_t make_node(std::int32_t node, std::int32_t word);
  double log_prob(std::int32_t node, std::int32_t word) const;
  std::int32_t next(std::int32_t node, std::int32_t word) const;
  std::int32_t word_of(const std::string &spelled) const;

  std::vector<Node> nodes_;
  std::unordered_map<std::uint64_t, Edge> edges_;
  std::unordered_map<std::string, std::int32_t> words_;
  std::vector<std::string> tokens_;
  std::vector<std::int32_t> word_of_class_;
  std::vector<char> separates_;  // of each class; empty if each token is a word
  std::int32_t unknown_ = -1, end_ = -1, start_ = 0;
};
