"""Kernels for the tests of the harness, right ones and flawed ones, and a program that runs one.

``python kernels.py NAME [DEFECT]`` launches one through CuPy and prints what it computed.
"""

import sys

import numpy as np

# Sum of n numbers by a block of 64, in shared memory.
SUM = r"""
#ifdef DYNAMIC
extern __shared__ float part[];
#endif
extern "C" __global__ void __launch_bounds__(64) sum64(const float* x, float* y, int n) {
#ifndef DYNAMIC
  __shared__ float part[64];
#endif
  const int i = threadIdx.x;
  float mine = 0.0f;
  for (int k = i; k < n; k += blockDim.x) mine += x[k];
  part[i] = mine;
  BARRIER;
  for (int half = 32; half; half >>= 1) {
    if (i < half) part[i] += part[i + half];
    __syncthreads();
  }
  if (i == 0) y[0] = part[0];
}
"""

# The same with shuffles, on any number type.
WARP_SUM = r"""
template <typename T, int WARPS>
__global__ void warp_sum(const T* x, T* y, int n) {
  __shared__ T part[WARPS];
  T mine = 0;
  for (int k = threadIdx.x; k < n; k += 32 * WARPS) mine += x[k];
  for (int lanes = 16; lanes; lanes >>= 1) mine += __shfl_xor_sync(0xffffffffu, mine, lanes);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < WARPS; ++w) mine += part[w];
    y[0] = mine;
  }
}
"""

# Each block writes one number; the defects write where they mustn't, or not at all.
BLOCKS = r"""
extern "C" __global__ void blocks(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
#if defined(SAME_PLACE)
  if (threadIdx.x == 0) y[0] = blockIdx.x;
#elif defined(OVERRUN)
  if (i <= n) y[i] = i;
#elif defined(UNWRITTEN)
  if (i < n - 1) y[i] = i;
#elif defined(STATIC_OVERRUN)
  __shared__ float part[8];
  part[i + 1] = i;
  y[i] = part[i + 1];
#elif defined(DYNAMIC_OVERRUN)
  extern __shared__ float part[];
  part[i + 1] = i;
  y[i] = part[i + 1];
#else
  if (i < n) y[i] = i;
#endif
}
"""

# Barriers and warp functions that not all threads come to.
DIVERGE = r"""
extern "C" __global__ void diverge(int* y) {
#if defined(HALF)
  if (threadIdx.x < 16) __syncthreads(); else __syncwarp(0xffff0000u), __syncwarp();
#elif defined(TWO_PLACES)
  if (threadIdx.x < 32) __syncthreads();
  else
    __syncthreads();
#elif defined(NOT_NAMED)
  __syncwarp(0xfffffffeu);
#elif defined(EXITED)
  if (threadIdx.x == 5) return;
  y[0] = __shfl_sync(0xffffffffu, 1, 5);
#elif defined(EXITED_BARRIER)
  if (threadIdx.x >= 40) return;
  __syncthreads();
  y[threadIdx.x] = __syncthreads_count(threadIdx.x % 2);
#elif defined(TWO_GROUPS)
  if (threadIdx.x < 16) __syncwarp(0x0000ffffu);
  y[threadIdx.x] = __popc(__ballot_sync(0xffffffffu, threadIdx.x % 4 == 0));
#endif
}
"""


def run_sum(defect):
    import cupy

    barrier = {"": "__syncthreads()", "warp-barrier": "__syncwarp()", "no-barrier": ""}[defect]
    kernel = cupy.RawModule(code=SUM, options=(f"-DBARRIER={barrier}",)).get_function("sum64")
    x, y = cupy.asarray(np.arange(100, dtype=np.float32)), cupy.zeros(1, np.float32)
    kernel((1,), (64,), (x, y, np.int32(100)))
    return y


def run_blocks(defect):
    import cupy

    kernel = cupy.RawModule(code=BLOCKS, options=(f"-D{defect or 'NONE'}",)).get_function("blocks")
    y = cupy.zeros(8, np.float32)
    blocks, threads = (1, 8) if "_OVERRUN" in defect else (3, 4)
    kernel((blocks,), (threads,), (y, np.int32(8)), shared_mem=32)
    return y


if __name__ == "__main__":
    import cupy

    cupy.cuda.set_allocator(None)
    name, defect = [*sys.argv[1:], ""][:2]
    print({"sum": run_sum, "blocks": run_blocks}[name](defect))
