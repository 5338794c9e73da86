// Runs one launch of a kernel: each CUDA thread a fiber, the blocks one after the other.
#pragma once

#include <string>

#include "grid.h"

namespace coc {

enum class Order { forward, reverse, random };

struct Schedule {
  Order order = Order::forward;
  unsigned seed = 0;
};

struct Launch {
  const coc_kernel_t* kernel;
  void** arguments;
  dim3 grid;
  dim3 block;
  size_t static_shared;
  size_t dynamic_shared;
};

// Returns what went wrong, or nothing. After a failure the rest of the grid has not run.
std::string run(const Launch& launch, const Schedule& schedule);

}  // namespace coc
