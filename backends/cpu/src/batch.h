// One call: reading the integers, and cutting the work into tasks.
#pragma once
#include "ctcx_cpu.h"
#include "threads.h"

namespace ctcx {

// Copies labels and lengths, and checks the copies. The batch must have passed ctcx_cpu_check.
// Labels may name the extra columns if it is for align.
Batch read(const ctcx_cpu_batch &call, bool for_align = false);

void compute(const Batch &batch, const Team &team);
void compute_softmax_only(const Batch &batch, const Team &team);
void align(const Batch &batch, const Team &team);
void greedy(const Batch &batch, const Team &team);
void beam_search(const Batch &batch, const Team &team);

}  // namespace ctcx
