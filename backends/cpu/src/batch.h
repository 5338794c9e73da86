// One call: its operation, reading the integers, and cutting the work into tasks.
#pragma once
#include <string_view>

#include "ctcx_cpu.h"
#include "threads.h"

namespace ctcx {

// What a function of the C interface does, and XLA's handler.
struct Operation {
  std::string_view name;
  bool has_labels;
  const char *(*check)(const ctcx_cpu_batch *);
  void (*compute)(const ctcx_cpu_batch &, const Team &);  // of a batch that has passed its check
};
const Operation *operation_of(std::string_view name);  // null if there is none

// Copies labels and lengths, and checks the copies. The batch must have passed its check.
// Labels may name the extra columns if it is for align.
Batch read(const ctcx_cpu_batch &call, bool for_align = false);

void compute(const Batch &batch, const Team &team);
void compute_softmax_only(const Batch &batch, const Team &team);
void align(const Batch &batch, const Team &team);
void sample_paths(const Batch &batch, const Team &team);
void greedy(const Batch &batch, const Team &team);
void beam_search(const Batch &batch, const Team &team);
void guided_search(const Batch &batch, const Team &team);

}  // namespace ctcx
