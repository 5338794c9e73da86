// One call: reading the integers, and cutting the work into tasks.
#pragma once
#include "ctcx_cpu.h"
#include "threads.h"

namespace ctcx {

// Copies labels and lengths, and checks the copies. The batch must have passed ctcx_cpu_check.
Batch read(const ctcx_cpu_batch &call);

void compute(const Batch &batch, const Team &team);
void compute_softmax_only(const Batch &batch, const Team &team);

}  // namespace ctcx
