"""In a program of JAX's: the same bits as for NumPy, however it is transformed and shared out."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import ctcx_cpu
import numpy as np
import pytest
from ctcx_cpu import kernels

import ctcx

jax = pytest.importorskip("jax")
jnp = jax.numpy
if hasattr(jax, "enable_x64"):
    enable_x64 = jax.enable_x64
else:  # until JAX 0.7
    from jax.experimental import enable_x64


def in_a_program(num_threads, arrays, blank=0):
    """Loss and gradient, from one compiled program."""

    def call(*traced):
        return kernels.loss_and_grad(*traced, blank=blank, num_threads=num_threads)

    return jax.jit(call)(*map(jnp.asarray, arrays))


def check_same(arrays, num_threads=None, blank=0):
    expected = kernels.loss_and_grad(*arrays, blank=blank, num_threads=1)
    got = in_a_program(num_threads, arrays, blank)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert got[1].dtype == arrays[0].dtype


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 5, 4, 2),
        (0, 5, 4, 2),
        (2, 0, 4, 2),
        (3, 6, 4, 0),
        (2, 9, 1, 0),
        (40, 120, 30, 25),  # sequences are shared out
        (300, 30, 20, 5),
        (1, 3000, 40, 300),  # halves are shared out
        (3, 2500, 300, 100),
    ],
    ids=str,
)
def test_the_same_bits(batch, sizes, num_threads):
    check_same(batch(*sizes, ragged=True), num_threads)
    check_same(batch(*sizes), num_threads, blank=sizes[2] - 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(batch, dtype):
    x, *rest = batch(3, 20, 10, 5)
    wide = np.asarray(jnp.asarray(x, dtype=dtype).astype("float32"))
    expected = kernels.loss_and_grad(wide, *rest, blank=0)
    loss, grad = in_a_program(None, (jnp.asarray(x, dtype=dtype), *rest))
    np.testing.assert_array_equal(loss, expected[0])
    assert grad.dtype == dtype
    np.testing.assert_array_equal(grad, jnp.asarray(expected[1], dtype=dtype))


def occupancies(batch, dtype):
    arrays = batch(3, 50, 12, 7, ragged=True, dtype=dtype)
    return kernels.occupancies, arrays, {"blank": 0, "states": True}


def occupancies_of_classes(batch, dtype):
    arrays = batch(1, 3000, 12, 200, dtype=dtype)
    return kernels.occupancies, arrays, {"blank": 11, "states": False}


def align(batch, dtype):
    arrays = batch(3, 50, 12, 7, ragged=True, dtype=dtype)
    return kernels.align, arrays, {"blank": 0, "extra": None, "ends": (0, 0)}


def align_with_columns(batch, dtype):
    x, *rest = batch(3, 50, 14, 7, dtype=dtype)
    extra, x = np.ascontiguousarray(x[:, :, 12:]), np.ascontiguousarray(x[:, :, :12])
    return kernels.align, (x, *rest), {"blank": 0, "extra": extra, "ends": (12, 13)}


def sample_paths(batch, dtype):
    arrays = batch(3, 50, 12, 7, ragged=True, dtype=dtype)
    uniforms = np.random.default_rng(0).random((3, 4, 50), dtype=dtype)
    return kernels.sample_paths, arrays, {"blank": 0, "uniforms": uniforms}


def greedy(batch, dtype):
    x, _, lengths, _ = batch(3, 50, 12, 7, ragged=True, dtype=dtype)
    return kernels.greedy, (x, lengths), {"blank": 0}


def beam_search(batch, dtype):
    x, _, lengths, _ = batch(3, 50, 12, 7, ragged=True, dtype=dtype)
    settings = {"width": 8, "top": 3, "max_classes": 5}
    return kernels.beam_search, (x, lengths), {"blank": 0, **settings}


OPERATIONS = [
    occupancies,
    occupancies_of_classes,
    align,
    align_with_columns,
    sample_paths,
    greedy,
    beam_search,
]


def run(kernel, count, options, *arrays):
    """Call a kernel of so many arrays; one more is an option."""
    name = "uniforms" if "uniforms" in options else "extra"
    more = dict(zip([name], arrays[count:], strict=False))
    return kernel(*arrays[:count], **options | more)


def listed(results):
    return results if isinstance(results, tuple | list) else [results]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_other_operations_have_the_bits_of_numpy(batch, operation):
    """Called as they are, in a program, and in one that maps them over another axis."""
    for dtype in np.float32, np.float64:
        kernel, arrays, options = operation(batch, dtype)
        expected = listed(kernel(*arrays, **options))
        extra = [option for option in options.values() if isinstance(option, np.ndarray)]
        with enable_x64(dtype == np.float64):
            given = tuple(map(jnp.asarray, (*arrays, *extra)))
            call = partial(run, kernel, len(arrays), options)
            for function in call, jax.jit(call):
                got = listed(function(*given))
                for array, right in zip(got, expected, strict=True):
                    assert isinstance(array, jax.Array)
                    assert array.dtype == right.dtype
                    np.testing.assert_array_equal(array, right)
            twice = listed(jax.jit(jax.vmap(call))(*(jnp.stack([array] * 2) for array in given)))
            for array, right in zip(twice, expected, strict=True):
                np.testing.assert_array_equal(array, np.stack([right] * 2))


def test_a_result_in_huge_pages():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 70, 50_021)).astype(np.float32)
    labels = rng.integers(1, 50_021, (3, 5), dtype=np.int32)
    check_same((logits, labels, np.asarray([70, 1, 69]), np.asarray([5, 0, 2])))


def test_they_are_chosen_for_jax(batch):
    logits, labels, *lengths = batch(3, 20, 10, 5)

    @jax.jit
    def call(x):
        return (
            ctcx.ctc_align(x, labels, *lengths).states,
            ctcx.ctc_occupancies(x, labels, *lengths).classes,
            ctcx.ctc_sample_paths(x, labels, jnp.full((3, 2, 20), 0.5), *lengths),
            ctcx.ctc_greedy(x, lengths[0]).labels,
            ctcx.ctc_beam_search(x, lengths[0], width=4, exact_scores=False).labels,
        )

    with ctcx.trace() as runs:
        call(logits)
    operations = ["align", "occupancies", "sample_paths", "greedy", "beam_search"]
    assert [(run.backend, run.operation) for run in runs] == [("cpu", name) for name in operations]


@pytest.mark.parametrize("wrong", ["label", "negative label", "blank", "frames", "count", "nan"])
@pytest.mark.parametrize("sizes", [(3, 20, 10, 5), (2, 3000, 60, 100)], ids=str)
def test_what_is_wrong_makes_nan_of_its_sequence_only(batch, sizes, wrong):
    x, labels, frames, counts = batch(*sizes)
    expected = kernels.loss(x, labels, frames, counts, blank=0)
    x, labels, frames, counts = (np.copy(a) for a in (x, labels, frames, counts))
    if wrong == "nan":
        x[1, 3, 2] = np.nan
    elif wrong == "frames":
        frames[1] = sizes[1] + 1
    elif wrong == "count":
        counts[1] = -1
    else:
        labels[1, 0] = {"label": sizes[2], "negative label": -1, "blank": 0}[wrong]
    loss, _ = in_a_program(2, (x, labels, frames, counts))
    np.testing.assert_array_equal(np.delete(loss, 1), np.delete(expected, 1))
    assert np.isnan(loss[1])


def test_what_no_path_can_emit(batch):
    x, labels, frames, counts = batch(3, 3000, 60, 100)
    frames[1] = 50
    loss, grad = in_a_program(2, (x, labels, frames, counts))
    assert loss[1] == np.inf
    assert not grad[1].any()
    assert np.isfinite(np.delete(loss, 1)).all()


def test_under_vmap_once_and_twice(batch):
    x, labels, *lengths = batch(12, 30, 10, 5)
    expected = kernels.loss_and_grad(x, labels, *lengths, blank=0)

    def call(logits, targets):
        return kernels.loss_and_grad(logits, targets, *few, blank=0)

    few = tuple(jnp.asarray(a[:2]) for a in lengths)
    for shape in ((6,), (2, 3)):
        function = call
        for _ in shape:
            function = jax.vmap(function)
        loss, grad = jax.jit(function)(
            x.reshape(*shape, 2, *x.shape[1:]), labels.reshape(*shape, 2, -1)
        )
        np.testing.assert_array_equal(np.ravel(loss), expected[0])
        np.testing.assert_array_equal(np.reshape(grad, x.shape), expected[1])


def test_in_a_loop_and_at_the_same_time_as_others(batch):
    """Threads of XLA's run several programs, and each asks for more of them."""
    arrays = batch(20, 200, 30, 25, ragged=True)
    expected = kernels.loss_and_grad(*arrays, blank=0)
    on_device = tuple(map(jnp.asarray, arrays))

    @jax.jit
    def many(x, *rest):
        def step(carry, scale):
            loss, grad = kernels.loss_and_grad(x * scale, *rest, blank=0)
            return carry + grad, loss

        return jax.lax.scan(step, jnp.zeros_like(x), jnp.ones(8, x.dtype))

    results = [many(*on_device) for _ in range(6)]
    for total, losses in results:
        np.testing.assert_array_equal(losses, np.tile(expected[0], (8, 1)))
        np.testing.assert_allclose(total, 8 * expected[1], rtol=1e-5)


def test_logits_are_not_copied(batch):
    arrays = tuple(map(jnp.asarray, batch(3, 20, 10, 5)))

    def call(*traced):
        return kernels.loss_and_grad(*traced, blank=0)

    program = jax.jit(call).lower(*arrays).compile().as_text()
    assert "ctcx_cpu" in program
    assert "f32[3,20,10]" in program
    assert " copy(" not in program


def test_it_is_chosen_under_jit(batch):
    logits, labels, *lengths = batch(3, 20, 10, 5)
    with ctcx.trace() as runs:
        jax.jit(lambda x: ctcx.ctc_loss(x, labels, *lengths))(logits)
    assert [run.backend for run in runs] == ["cpu"]


def test_wide_integers_are_not_cut(batch):
    """A label that would be right if only its lower half was looked at."""
    x, labels, frames, counts = batch(2, 20, 10, 5)
    labels = labels.astype(np.int64)
    labels[1, 0] += 2**32
    with enable_x64(True):
        loss, _ = in_a_program(1, (x, labels, frames, counts))
    assert np.isfinite(loss[0])
    assert np.isnan(loss[1])


SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from ctcx_cpu import kernels
rng = np.random.default_rng(0)
x = rng.standard_normal((4, 30, 10)).astype("float32")
rest = rng.integers(1, 10, (4, 5)), np.full(4, 30), np.full(4, 5)
expected = kernels.loss_and_grad(x, *rest, blank=0)
mesh = jax.make_mesh((2,), ("batch",))
where = NamedSharding(mesh, PartitionSpec("batch"))
arrays = [jax.device_put(a, where) for a in (x, *rest)]
got = jax.jit(lambda *a: kernels.loss_and_grad(*a, blank=0))(*arrays)
np.testing.assert_array_equal(got[0], expected[0])
np.testing.assert_array_equal(got[1], expected[1])
print(len(got[1].sharding.device_set))
"""


def test_sequences_on_several_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SHARDED]
    child = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.strip() == "2"


def test_a_program_kept_on_disk_runs_in_another_process(tmp_path):
    code = """
import jax, numpy as np
from ctcx_cpu import kernels
x = np.zeros((1, 9, 4), np.float32)
call = jax.jit(lambda x: kernels.loss_and_grad(x, *(
    jax.numpy.asarray(a) for a in ([[1, 2]], [9], [2])), blank=0))
print(*call(jax.numpy.asarray(x))[0])
"""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert any(tmp_path.iterdir())
    assert outputs[0] == outputs[1] != ""


def test_where_jax_takes_no_such_function_it_is_left_to_others():
    # In a process of its own, since the functions are registered once.
    code = """
import jax
import numpy as np
import ctcx

def refuse(*_, **__):
    raise RuntimeError("version 9 of the interface")

jax.ffi.register_ffi_target = refuse
x, labels = np.random.default_rng(0).standard_normal((3, 23, 11), np.float32), [[1, 2]] * 3
with ctcx.trace() as runs:
    loss = ctcx.ctc_loss(jax.numpy.asarray(x), labels)
assert [run.backend for run in runs] == ["array-api"]
reasons = {one.name: one.reason for one in runs[0].decision.candidates}
assert "version 9 of the interface" in reasons["cpu"]
np.testing.assert_allclose(loss, ctcx.ctc_loss(x, labels, backend="cpu"), rtol=1e-6)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


FREED_MEMORY = """
import jax, numpy as np
from ctcx_cpu import kernels
rng = np.random.default_rng(0)
for n, t, c, s in (300, 30, 20, 5), (40, 120, 30, 25), (2, 3000, 60, 300):
    x = rng.standard_normal((n, t, c)).astype("float32")
    rest = rng.integers(1, c, (n, s)), np.full(n, t), np.full(n, s)
    expected = kernels.loss_and_grad(x, *rest, blank=0)
    program = jax.jit(lambda *a: kernels.loss_and_grad(*a, blank=0, num_threads=3))
    for _ in range(3):
        got = program(x, *rest)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
"""


def test_no_memory_is_freed_too_early():
    """glibc writes over what is freed when it is told to; elsewhere this shows less."""
    child = subprocess.run(
        [sys.executable, "-c", FREED_MEMORY],
        env=os.environ | {"MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr


def test_an_exported_program_runs_in_a_fresh_process(tmp_path):
    export = pytest.importorskip("jax.export")
    allowed = [export.DisabledSafetyCheck.custom_call(ctcx_cpu.register_with_jax())]
    logits, labels = jnp.zeros((2, 4, 3), jnp.float32), jnp.ones((2, 1), jnp.int32)
    program = jax.jit(partial(ctcx.ctc_loss, backend="cpu"))
    exported = export.export(program, disabled_checks=allowed)(logits, labels)
    (tmp_path / "program").write_bytes(exported.serialize())
    code = """
import sys
from pathlib import Path
import ctcx_cpu
import jax
from jax import export
program = export.deserialize(bytearray(Path(sys.argv[1]).read_bytes()))
ctcx_cpu.register_with_jax()
logits, labels = jax.numpy.zeros((2, 4, 3), "float32"), jax.numpy.ones((2, 1), "int32")
print(*program.call(logits, labels))
"""
    command = [sys.executable, "-c", code, tmp_path / "program"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    np.testing.assert_array_equal(np.float32(run.stdout.split()), program(logits, labels))


@pytest.mark.slow
def test_all_operations_on_arrays_whose_types_say_how_they_are_sharded():
    # The core's tests have the program.
    command = [sys.executable, "-W", "error", "-m", "tests.jax_sharded_operations", "cpu"]
    child = subprocess.run(
        command,
        check=False,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert child.stdout.endswith("done\n")
