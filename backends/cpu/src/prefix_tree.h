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
    std::int32_t parent, label, child, next, previous;  // a child; siblings
    std::int32_t slot;                                  // in the beam, or -1
  };
  PrefixTree() : nodes_{{-1, -1, -1, -1, -1, -1}} {}
  Node &operator[](std::int32_t node) { return nodes_[node]; }
  const Node &operator[](std::int32_t node) const { return nodes_[node]; }

  // The child with that label, which is made if there is none.
  std::int32_t child(std::int32_t parent, std::int32_t label) {
    for (std::int32_t node = nodes_[parent].child; node >= 0; node = nodes_[node].next)
      if (nodes_[node].label == label) return node;
    const std::int32_t next = nodes_[parent].child, node = fresh();
    nodes_[node] = {parent, label, -1, next, -1, -1};
    if (next >= 0) nodes_[next].previous = node;
    return nodes_[parent].child = node;
  }
  // Forgets a node, and then those above it, if nothing in the beam begins with it. It may be
  // forgotten already, but not in use again.
  void prune(std::int32_t node) {
    while (nodes_[node].parent >= 0 && nodes_[node].slot < 0 && nodes_[node].child < 0) {
      const auto [parent, label, child, next, previous, slot] = nodes_[node];
      if (next >= 0) nodes_[next].previous = previous;
      (previous >= 0 ? nodes_[previous].next : nodes_[parent].child) = next;
      nodes_[node].parent = -1, nodes_[node].next = free_;
      free_ = node;
      node = parent;
    }
  }

 private:
  std::int32_t fresh() {
    if (free_ >= 0) {
      const std::int32_t node = free_;
      free_ = nodes_[node].next;
      return node;
    }
    if (nodes_.size() > std::size_t(std::numeric_limits<std::int32_t>::max())) throw std::bad_alloc();
    nodes_.emplace_back();
    return std::int32_t(nodes_.size() - 1);
  }

  std::vector<Node> nodes_;
  std::int32_t free_ = -1;
};

}  // namespace
