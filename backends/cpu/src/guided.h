// Beam search that prefers phrases, asks an n-gram model, or goes on where it stopped.
//
// All of it is compiled once, for no instruction set: what pays to be in vectors is the softmax, which
// comes from the kernels.
#pragma once
#include "kernel.h"

namespace ctcx {

// The beam of sequence n, and what is written of it.
void guided_search_of(const Batch &batch, Size n, const Kernel &kernel, Scratch &scratch);

}  // namespace ctcx
