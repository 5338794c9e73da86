"""The harness finds what it is there to find, and says nothing of what is right."""

import os
import subprocess
import sys
from pathlib import Path

import cuda_on_cpu
import cupy
import numpy as np
import pytest

from tests.cuda_on_cpu.kernels import BLOCKS, DIVERGE, SUM

CUDADriverError = cupy.cuda.driver.CUDADriverError
KERNELS = str(Path(__file__).with_name("kernels.py"))


def blocks_kernel(define):
    return cupy.RawModule(code=BLOCKS, options=(f"-D{define}",)).get_function("blocks")


@pytest.mark.parametrize(
    ("name", "defect", "reports"),
    [
        ("sum", "", 0),
        ("sum", "no-barrier", 1),
        ("sum", "warp-barrier", 1),
        ("blocks", "", 0),
        ("blocks", "SAME_PLACE", 1),
    ],
)
def test_thread_sanitizer(name, defect, reports):
    run = cuda_on_cpu.run_sanitized("thread", [KERNELS, name, defect])
    assert bool(run.reports) == bool(reports), run.stderr
    assert set(run.reports) <= {"data race"}
    assert run.returncode == (66 if reports else 0), run.stderr


@pytest.mark.parametrize(
    ("defect", "report"),
    [
        ("", ""),
        ("OVERRUN", "heap-buffer-overflow"),
        ("DYNAMIC_OVERRUN", "heap-buffer-overflow"),
        ("STATIC_OVERRUN", "out of bounds"),
    ],
)
def test_address_sanitizer(defect, report):
    run = cuda_on_cpu.run_sanitized("address", [KERNELS, "blocks", defect])
    assert bool(run.reports) == bool(report), run.stderr
    assert all(report in found or found == "heap-buffer-overflow" for found in run.reports)


def test_an_overrun_is_found_without_a_sanitizer():
    y = cupy.zeros(8, np.float32)
    with pytest.raises(CUDADriverError, match="wrote past the end of the 32 bytes of argument 0"):
        blocks_kernel("OVERRUN")((3,), (4,), (y, np.int32(8)))


def test_what_is_not_written_is_nan():
    y = cupy.empty(8, np.float32)
    blocks_kernel("UNWRITTEN")((2,), (4,), (y, np.int32(8)))
    np.testing.assert_array_equal(y.get(), [0, 1, 2, 3, 4, 5, 6, np.nan])


@pytest.mark.parametrize("define", ["DYNAMIC", "STATIC"])
def test_shared_memory_that_is_not_written_is_nan(define):
    """Of the block before it, too: nothing of one block's shared memory reaches the next."""
    source = SUM.replace("part[i] = mine;", "if (i != 7 || blockIdx.x == 0) part[i] = mine;")
    source = source.replace("y[0] = part[0]", "y[blockIdx.x] = part[0]")
    options = (f"-D{define}", "-DBARRIER=__syncthreads()")
    kernel = cupy.RawModule(code=source, options=options).get_function("sum64")
    x, y = cupy.ones(64, np.float32), cupy.empty(2, np.float32)
    kernel((2,), (64,), (x, y, np.int32(64)), shared_mem=256)
    np.testing.assert_array_equal(y.get(), [64, np.nan])


def test_reading_a_value_back_is_counted():
    x = cupy.ones(3, np.float32)
    with cuda_on_cpu.counting() as counted:
        float(x[0])
    assert (counted.device_to_host, counted.synchronisations) == (1, 1)
    with cuda_on_cpu.counting() as counted:
        x + x
    assert (counted.device_to_host, counted.synchronisations, counted.launches) == (0, 0, 1)


def test_numpy_does_not_read_an_array_silently():
    x = cupy.ones(3, np.float32)
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.asarray(x)


@pytest.mark.parametrize(
    ("grid", "block", "shared", "reason"),
    [
        ((1,), (65,), 0, "65 threads a block, of at most 64"),
        ((1, 65536), (64,), 0, "a grid beyond"),
        ((1,), (64,), 49153, "49153 bytes of dynamic shared memory, of at most 49152"),
    ],
)
def test_a_launch_with_a_bad_shape(grid, block, shared, reason):
    kernel = cupy.RawModule(code=SUM, options=("-DBARRIER=__syncthreads()",)).get_function("sum64")
    x, y = cupy.ones(64, np.float32), cupy.empty(1, np.float32)
    with pytest.raises(CUDADriverError, match=reason):
        kernel(grid, block, (x, y, np.int32(64)), shared_mem=shared)


def test_an_empty_grid():
    """CuPy itself launches nothing then; CUDA refuses it."""
    kernel = cuda_on_cpu.Module(BLOCKS).get_function("blocks")
    with pytest.raises(cuda_on_cpu.KernelError, match="a grid or block of size 0"):
        kernel((0,), (4,), (np.zeros(8, np.float32), np.int32(8)))


def test_a_pointer_to_the_host():
    kernel = blocks_kernel("NONE")
    host = np.zeros(8, np.float32)
    with pytest.raises(CUDADriverError, match="argument 0 of kernel blocks points to no memory"):
        kernel((2,), (4,), (np.uint64(host.ctypes.data), np.int32(8)))


def test_freed_memory():
    kernel = blocks_kernel("NONE")
    y = cupy.zeros(8, np.float32)
    pointer = np.uint64(y.data.ptr)
    del y
    with pytest.raises(CUDADriverError, match="points to no memory of the device"):
        kernel((2,), (4,), (pointer, np.int32(8)))


@pytest.mark.parametrize(
    ("define", "threads", "reason"),
    [
        ("HALF", 32, "no thread can go on: thread 0 .* waits for __syncthreads .* __syncwarp"),
        ("TWO_PLACES", 64, "threads of a block wait at different barriers"),
        ("NOT_NAMED", 32, "the mask 0xfffffffe, which doesn't name it"),
        ("EXITED", 32, "reads lane 5, which the mask 0xffffffff doesn't name or which has exited"),
    ],
)
def test_divergence(define, threads, reason):
    kernel = cupy.RawModule(code=DIVERGE, options=(f"-D{define}",)).get_function("diverge")
    y = cupy.zeros(64, np.int32)
    with pytest.raises(CUDADriverError, match=reason):
        kernel((1,), (threads,), (y,))
    # A kernel that failed leaves nothing behind.
    right = cupy.RawModule(code=DIVERGE, options=("-DTWO_GROUPS",)).get_function("diverge")
    right((1,), (32,), (y,))
    assert (y[:32] == 8).all()


def test_threads_that_have_exited_are_not_waited_for(any_thread_order):
    kernel = cupy.RawModule(code=DIVERGE, options=("-DEXITED_BARRIER",)).get_function("diverge")
    y = cupy.zeros(64, np.int32)
    kernel((1,), (64,), (y,))
    np.testing.assert_array_equal(y.get(), np.where(np.arange(64) < 40, 20, 0))


def test_an_order_of_threads_shows_a_missing_barrier():
    def total(order):
        module = cuda_on_cpu.Module(SUM, ["-DBARRIER="])
        x, y = np.ones(64, np.float32), np.empty(1, np.float32)
        with cuda_on_cpu.thread_order(order):
            module.get_function("sum64")((1,), (64,), (x, y, np.int32(64)))
        return y[0]

    assert total("reverse") == 64
    assert np.isnan(total("forward"))


def test_an_allocation_beyond_the_limit():
    used = cuda_on_cpu.state().allocated
    with cuda_on_cpu.memory_limit(used + 1000):
        cupy.empty(900, np.uint8)
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorMemoryAllocation"):
            cupy.empty(1001, np.uint8)


def test_a_kernel_that_is_to_fail():
    y = cupy.zeros(8, np.float32)
    kernel = blocks_kernel("NONE")
    with (
        cuda_on_cpu.failing_kernel("blocks"),
        pytest.raises(CUDADriverError, match="CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"),
    ):
        kernel((2,), (4,), (y, np.int32(8)))
    kernel((2,), (4,), (y, np.int32(8)))
    assert y[7] == 7


def test_compile_errors_name_the_line():
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r":3:\d+: error: .*mistake"):
        cupy.RawModule(code='extern "C" __global__ void k() {\n  int i;\n  mistake;\n}').compile()


class TestCapture:
    """A call that is safe to capture does nothing but launch."""

    def capture(self, call):
        with cupy.cuda.Stream(non_blocking=True) as stream:
            stream.begin_capture()
            try:
                call()
            finally:
                graph = stream.end_capture()
        return graph

    def test_a_graph_runs_when_it_is_launched_and_reads_the_inputs_then(self):
        x, y = cupy.ones(64, np.float32), cupy.zeros(1, np.float32)
        code = SUM.replace("extern __shared__", "// extern")
        kernel = cupy.RawModule(code=code, options=("-DBARRIER=__syncthreads()",))
        function = kernel.get_function("sum64")
        graph = self.capture(lambda: function((1,), (64,), (x, y, np.int32(64))))
        assert y[0] == 0
        x[...] = 2
        graph.launch()
        assert y[0] == 128

    @pytest.mark.parametrize(
        "call",
        [
            lambda: cupy.cuda.runtime.deviceSynchronize(),
            lambda: cupy.cuda.get_current_stream().synchronize(),
            lambda: cupy.cuda.runtime.memcpy(cupy.ones(1).data.ptr, cupy.ones(1).data.ptr, 4, 2),
        ],
        ids=["synchronise", "stream", "copy"],
    )
    def test_a_call_that_waits_breaks_it(self, call):
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="Capture"):
            self.capture(call)

    def test_the_default_stream_breaks_it(self):
        x = cupy.ones(3)

        def call():
            with cupy.cuda.Stream.null:
                x + x

        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="Capture"):
            self.capture(call)


@pytest.mark.parametrize(
    ("arch", "capability", "shared"), [("75", "75", 65536), ("90", "90", 232448)]
)
def test_another_architecture(arch, capability, shared):
    code = (
        "import cupy; d = cupy.cuda.Device();"
        "print(d.compute_capability, d.attributes['MaxSharedMemoryPerBlockOptin'])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CUDA_ON_CPU_ARCH": arch},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.split() == [capability, str(shared)]
