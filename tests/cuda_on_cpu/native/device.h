// The state of the pretended device: its memory, its counters, what a capture records.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "fibers.h"

namespace coc {

// The order is that of the fields of `Counters` in Python.
struct Counters {
  long host_to_device = 0;
  long device_to_host = 0;
  long device_to_device = 0;
  long sets = 0;
  long launches = 0;
  long synchronisations = 0;
  long allocations = 0;
  long frees = 0;
};

struct Device {
  Counters counters;
  Schedule schedule;
  size_t memory_limit = size_t{8} << 30;
  int architecture = 90;
  std::string last_failure;
  bool flush_subnormals = false;  // as kernels do that are compiled with -ftz=true
  std::string failing_kernel;  // launches of it are refused, as for want of resources
};

Device& device();

// Prints the text, keeps it for Python, and returns the error.
cudaError_t failed(cudaError_t error, const std::string& what);

// ---- memory.cpp
struct Block {
  char* begin;
  size_t size;
};
cudaError_t allocate(void** pointer, size_t size);
cudaError_t deallocate(void* pointer);
const Block* find_block(const void* pointer);  // one past the end counts as inside
bool overrun(const Block& block);              // something was written just past its end
size_t allocated();

// ---- capture.cpp
using Work = std::function<cudaError_t()>;
// Does the work now, or records it if the stream is being captured.
cudaError_t submit(cudaStream_t stream, Work work);
// An error if this can't be done while a stream is being captured.
cudaError_t forbid_in_capture(const char* what, bool also_when_relaxed = true);
bool capturing(cudaStream_t stream);

struct Limits {
  int shared_per_block;        // without asking
  int shared_per_block_optin;  // after cuFuncSetAttribute
  int shared_per_processor;
  int threads_per_processor;
};
Limits limits();

}  // namespace coc
