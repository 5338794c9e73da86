// Scratch memory. One function lays out what a computation needs; it runs once on an Arena that
// only counts, to size the memory, and then on one that hands it out, so that the two can't differ.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

namespace ctcx {

constexpr std::size_t alignment = 64;

struct AlignedDelete {
  void operator()(char *p) const { ::operator delete[](p, std::align_val_t(alignment)); }
};
using Memory = std::unique_ptr<char[], AlignedDelete>;

inline Memory allocate(std::size_t bytes) {
  return Memory(static_cast<char *>(::operator new[](bytes, std::align_val_t(alignment))));
}

class Arena {
 public:
  Arena() = default;                            // counts
  explicit Arena(char *memory) : next_(memory), counts_(false) {}

  // So many elements, so many times.
  template <class U> __attribute__((always_inline)) U *take(std::int64_t count, std::int64_t times = 1) {
    constexpr std::size_t most = std::size_t(1) << 62;  // from where on sums might wrap round
    if (double(count) * double(times) * sizeof(U) > double(most) || used_ > most) refuse();
    std::size_t bytes = std::size_t(count) * std::size_t(times) * sizeof(U);
    std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    used_ += rounded;
    if (counts_) return nullptr;
#ifdef CTCX_CPU_SEPARATE_SCRATCH  // so that a sanitizer sees an access past the end of any array
    if (bytes && planted_overrun()) bytes -= sizeof(U);
    pieces_.push_back(allocate(bytes));
    return reinterpret_cast<U *>(pieces_.back().get());
#else
    char *piece = next_;
    next_ += rounded;
    return reinterpret_cast<U *>(piece);
#endif
  }
  std::size_t used() const { return used_; }

 private:
  [[noreturn]] static void refuse();  // not inline: no code may be shared between instruction sets

  char *next_ = nullptr;
  bool counts_ = true;
  std::size_t used_ = 0;
#ifdef CTCX_CPU_SEPARATE_SCRATCH
  static bool planted_overrun();  // whether a test has each array be one element too small
  std::vector<Memory> pieces_;
#endif
};

// Memory that a thread keeps from one sequence to the next.
class Scratch {
 public:
  char *get(std::size_t bytes) {
    if (size_ < bytes) {
      memory_ = nullptr;  // first, so that the two are never there together
      size_ = 0;
      memory_ = allocate(bytes);
      size_ = bytes;
    }
    return memory_.get();
  }
  void keep_at_most(std::size_t bytes) {
    if (size_ > bytes) memory_ = nullptr, size_ = 0;
  }

 private:
  Memory memory_;
  std::size_t size_ = 0;
};

}  // namespace ctcx
