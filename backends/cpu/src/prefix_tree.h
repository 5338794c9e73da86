// The prefixes of a beam.
#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace {

// Prefixes as paths from the root, node 0: those in the beam, and those that they begin with.
class PrefixTree {
 public:
  struct Node {
    std::int32_t parent, label;
    std::int32_t first[2];  // a child, and the next sibling; the root for none, so that it can be written to
    std::int32_t link;      // of which node it is which of these: twice the node, plus 1 for the sibling
    std::int32_t slot;      // in the beam, or -1
  };
  PrefixTree() : nodes_{{-1, -1, {0, 0}, 0, -1}} {}
  Node &operator[](std::int32_t node) { return nodes_[node]; }
  const Node &operator[](std::int32_t node) const { return nodes_[node]; }
  std::size_t size() const { return nodes_.size(); }

  // The child with that label, which is made if it isn't `first` or one of the siblings after that: those
  // before it are known to have other labels.
  std::int32_t child(std::int32_t parent, std::int32_t label, std::int32_t first) {
    for (std::int32_t node = first; node > 0; node = nodes_[node].first[1])
      if (nodes_[node].label == label) return node;
    const std::int32_t next = nodes_[parent].first[0], node = fresh();
    nodes_[node] = {parent, label, {0, next}, 2 * parent, -1};
    nodes_[next].link = 2 * node + 1;
    return nodes_[parent].first[0] = node;
  }
  std::int32_t child(std::int32_t parent, std::int32_t label) { return child(parent, label, nodes_[parent].first[0]); }
  // Forgets a node, and then those above it, if nothing in the beam begins with it. It may be
  // forgotten already, but not in use again.
  void prune(std::int32_t node) {
    // One condition and no others, since no processor foresees which nodes these are.
    while ((nodes_[node].parent >= 0) & (nodes_[node].slot < 0) & (nodes_[node].first[0] == 0)) {
      // One by one: a copy of all would wait for numbers that have just been written.
      const std::int32_t parent = nodes_[node].parent, next = nodes_[node].first[1], link = nodes_[node].link;
      nodes_[next].link = link;
      nodes_[link >> 1].first[link & 1] = next;
      nodes_[node].parent = -1;
      free_.push_back(node);
      node = parent;
    }
  }

 private:
  std::int32_t fresh() {
    if (!free_.empty()) {
      const std::int32_t node = free_.back();
      free_.pop_back();
      return node;
    }
    if (nodes_.size() > std::size_t(std::numeric_limits<std::int32_t>::max() / 2)) throw std::bad_alloc();
    nodes_.emplace_back();
    return std::int32_t(nodes_.size() - 1);
  }

  std::vector<Node> nodes_;
  std::vector<std::int32_t> free_;
};

}  // namespace
