"""What the harness runs comes out right: CuPy's own kernels, and those of a user."""

import subprocess
import sys

import cuda_on_cpu
import cupy
import numpy as np
import pytest

from tests.cuda_on_cpu.kernels import SUM, WARP_SUM

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 7, 5)).astype(np.float32)
INDEX = RNG.integers(0, 5, (4, 7, 3))


@pytest.mark.parametrize(
    "function",
    [
        lambda xp, x, i: xp.exp(x) + 1,
        lambda xp, x, i: xp.sum(x, axis=-1),
        lambda xp, x, i: xp.max(x, axis=1, keepdims=True),
        lambda xp, x, i: xp.argmax(x, axis=-1),
        lambda xp, x, i: xp.any(x > 0, axis=0),
        lambda xp, x, i: xp.logaddexp(x, -x),
        lambda xp, x, i: xp.where(x > 0, x, -np.inf),
        lambda xp, x, i: xp.take_along_axis(x, i, axis=2),
        lambda xp, x, i: xp.concatenate([x, x[:, ::-1]], axis=1),
        lambda xp, x, i: xp.cumsum(x, axis=1),
        lambda xp, x, i: x[:, 1:, ::2].copy(),
        lambda xp, x, i: x[xp.arange(4), xp.asarray([0, 1, 2, 3])],
        lambda xp, x, i: x[x > 0],
        lambda xp, x, i: xp.mean(x.astype(np.float64), axis=(0, 2)),
        lambda xp, x, i: (x.astype(np.float16) * 2).astype(np.float32),
        lambda xp, x, i: xp.flip(xp.clip(x, -1, 1), axis=2),
        lambda xp, x, i: xp.sum(i, axis=0) // 2,
    ],
)
def test_cupy_agrees_with_numpy(function):
    got = function(cupy, cupy.asarray(X), cupy.asarray(INDEX))
    assert isinstance(got, cupy.ndarray)
    np.testing.assert_allclose(got.get(), function(np, X, INDEX), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_templates_and_shuffles_in_any_order(dtype, any_thread_order):
    kind = {"float32": "float", "float64": "double", "int64": "long long"}[np.dtype(dtype).name]
    name = f"warp_sum<{kind}, 3>"
    module = cupy.RawModule(code=WARP_SUM, name_expressions=[name])
    x, y = cupy.arange(1000, dtype=dtype), cupy.empty(1, dtype)
    module.get_function(name)((1,), (96,), (x, y, np.int32(1000)))
    assert y[0] == 499500


@pytest.mark.parametrize("define", ["STATIC", "DYNAMIC"])
def test_shared_memory_in_any_order(define, any_thread_order):
    options = (f"-D{define}", "-DBARRIER=__syncthreads()")
    kernel = cupy.RawModule(code=SUM, options=options).get_function("sum64")
    x, y = cupy.arange(100, dtype=np.float32), cupy.empty(1, np.float32)
    kernel((1,), (64,), (x, y, np.int32(100)), shared_mem=256)
    assert y[0] == 4950
    assert kernel.shared_size_bytes == (256 if define == "STATIC" else 0)


def test_the_same_source_without_cupy_gives_the_same_bits(any_thread_order):
    x = RNG.standard_normal(1000).astype(np.float32)
    options = ("-DBARRIER=__syncthreads()",)
    direct = np.empty(1, np.float32)
    kernel = cuda_on_cpu.Module(SUM, options).get_function("sum64")
    kernel((1,), (64,), (x, direct, np.int32(1000)))
    through_cupy = cupy.empty(1, np.float32)
    kernel = cupy.RawModule(code=SUM, options=options).get_function("sum64")
    kernel((1,), (64,), (cupy.asarray(x), through_cupy, np.int32(1000)))
    assert direct.tobytes() == through_cupy.get().tobytes()


def test_the_source_without_cupy_needs_no_cupy():
    code = (
        "import sys, numpy as np, cuda_on_cpu\n"
        "source = 'extern \"C\" __global__ void k(float* y) { y[threadIdx.x] = threadIdx.x; }'\n"
        "y = np.empty(4, np.float32)\n"
        "cuda_on_cpu.Module(source).get_function('k')((1,), (4,), (y,))\n"
        "assert y.tolist() == [0, 1, 2, 3] and 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


HALF = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>
__device__ __forceinline__ float as_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float as_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void store(__half* to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
template <typename T> __global__ void twice(const T* x, T* y) {
  T other = __shfl_down_sync(0xffffffffu, x[threadIdx.x], 1);
  store(y + threadIdx.x, as_float(x[threadIdx.x]) + as_float(other));
}
"""


@pytest.mark.parametrize("kind", ["__half", "__nv_bfloat16"])
def test_half_precision(kind):
    name = f"twice<{kind}>"
    module = cupy.RawModule(code=HALF, name_expressions=[name])
    values = np.arange(32, dtype=np.float32)
    if kind == "__half":
        raw = values.astype(np.float16).view(np.uint16)
    else:
        raw = (values.view(np.uint32) >> 16).astype(np.uint16)
    x, y = cupy.asarray(raw), cupy.empty(32, np.uint16)
    module.get_function(name)((1,), (32,), (x, y))
    got = y.get()
    if kind == "__half":
        got = got.view(np.float16).astype(np.float32)
    else:
        got = (got.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(got, values + np.minimum(values + 1, 31))


def test_subnormal_numbers_are_flushed_where_asked_for():
    code = """extern "C" __global__ void scale(const float* x, float* y) {
      y[threadIdx.x] = x[threadIdx.x] * 0x1p20f;
    }"""
    kernel = cupy.RawModule(code=code).get_function("scale")
    x = cupy.asarray([2.0**-130, -(2.0**-149), 1.0], np.float32)
    y = cupy.empty(3, np.float32)
    kernel((1,), (3,), (x, y))
    np.testing.assert_array_equal(y.get(), [2.0**-110, -(2.0**-129), 2.0**20])
    with cuda_on_cpu.flushing_subnormals():
        kernel((1,), (3,), (x, y))
    np.testing.assert_array_equal(y.get(), [0.0, 0.0, 2.0**20])
    assert np.float32(2.0**-130) * np.float32(2.0**20) == np.float32(2.0**-110)


def test_more_shared_memory_than_48_kilobytes_is_asked_for():
    code = r"""extern "C" __global__ void fill(float* y, int n) {
      extern __shared__ __align__(16) float part[];
      for (int i = threadIdx.x; i < n; i += blockDim.x) part[i] = i;
      __syncthreads();
      y[threadIdx.x] = part[n - 1 - threadIdx.x];
    }"""
    kernel = cupy.RawModule(code=code).get_function("fill")
    kernel.max_dynamic_shared_size_bytes = 200_000
    y = cupy.empty(32, np.float32)
    kernel((1,), (32,), (y, np.int32(50_000)), shared_mem=200_000)
    np.testing.assert_array_equal(y.get(), 49_999 - np.arange(32))


def test_streams_pools_and_the_interfaces_of_other_libraries():
    cupy.cuda.set_allocator(cupy.cuda.malloc_async)
    x = cupy.arange(6, dtype=np.float32)
    with cupy.cuda.Stream() as stream:
        y = x * 2
    stream.synchronize()
    cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    again = cupy.from_dlpack(y)
    assert again.data.ptr == y.data.ptr
    assert y.__cuda_array_interface__["data"] == (y.data.ptr, False)
    assert x.__dlpack_device__() == (2, 0)
    with pytest.raises((TypeError, BufferError, RuntimeError)):
        np.from_dlpack(x)
    np.testing.assert_array_equal(again.get(), 2 * np.arange(6))
