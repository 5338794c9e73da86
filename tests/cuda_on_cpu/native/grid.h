// What a kernel and the library that runs it share. Plain data and C functions, so that the library
// can stay uninstrumented while a kernel is built with a sanitizer.
#pragma once

#include <cstddef>
#include <cstdint>

#include <vector_types.h>

struct coc_thread_t {
  uint3 index;  // threadIdx
  int lane;
};

struct coc_grid_t {
  uint3 block;  // blockIdx
  dim3 block_size;
  dim3 grid_size;
  char* static_shared;   // the variables declared __shared__ with a size
  char* dynamic_shared;  // extern __shared__
};

struct coc_votes_t {
  int yes;
  int threads;
};

enum coc_warp_t { COC_SYNC = 1, COC_SHUFFLE, COC_BALLOT, COC_MATCH };

// One of these is exported by name for each kernel of a module.
struct coc_kernel_t {
  void (*function)();
  void (*run)(void (*function)(), void** arguments);
  int max_threads;  // from __launch_bounds__
  int parameters;
  const size_t* sizes;
  const bool* pointers;
};

extern "C" {
extern coc_thread_t* coc_thread;
extern coc_grid_t coc_grid;
coc_votes_t coc_sync_block(int line, int vote);
uint64_t coc_sync_warp(coc_warp_t kind, unsigned mask, uint64_t value, int source);
void coc_fence();
}
