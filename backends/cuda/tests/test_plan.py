"""What is launched: variants, scratch memory, grids."""

import pytest
from ctcx_cuda.plan import grid, make_path_plan, make_plan, offsets, scratch_limit
from ctcx_cuda.variants import ANY_LENGTH, IN_REGISTERS

from ctcx import CTCInputError

MIB = 1 << 20


def plan(N=4, T=200, C=30, S=20, *, real=4, grad=True, limit=256 * MIB):
    return make_plan(N, T, C, S, real=real, grad=grad, limit=limit)


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (0, "labels-31"),
        (31, "labels-31"),
        (32, "labels-143"),
        (143, "labels-143"),
        (144, "labels-539"),
        (539, "labels-539"),
        (540, "any-length"),
        (100_000, "any-length"),
    ],
)
def test_the_smallest_variant_that_holds_the_labels(labels, name):
    assert plan(S=labels, limit=1 << 40).variant.name == name


def test_the_names_say_how_many_labels_fit():
    assert [variant.slots - 1 for variant in IN_REGISTERS] == [31, 143, 539]


@pytest.mark.parametrize("real", [4, 8])
def test_20000_frames_and_2000_labels_stay_under_300_mb(real):
    chosen = plan(N=1, T=20_000, S=2000, real=real)
    assert chosen.variant == ANY_LENGTH
    assert chosen.sequences == 1
    assert chosen.scratch < 300e6


@pytest.mark.parametrize("N", [1, 7, 64, 1000])
@pytest.mark.parametrize("T", [1, 500, 20_000])
@pytest.mark.parametrize("S", [0, 30, 500, 3000])
@pytest.mark.parametrize("real", [4, 8])
def test_the_limit_holds(N, T, S, real):
    chosen = plan(N=N, T=T, S=S, real=real)
    assert chosen.scratch <= 256 * MIB
    assert 1 <= chosen.sequences <= N


def test_a_batch_is_sliced_only_where_checkpoints_do_not_fit():
    assert plan(N=64, T=2000, S=500).sequences == 64
    assert plan(N=1000, T=20_000, S=3000).sequences < 1000


@pytest.mark.parametrize("C", [10, 5000])
@pytest.mark.parametrize(
    ("N", "T", "S", "sequences"),
    [
        (64, 1000, 100, 32),
        (256, 1000, 30, 128),
        (512, 500, 31, 256),
        (32, 2000, 143, 16),
        (8, 20_000, 143, 2),  # four slices
        (64, 500, 539, 22),
        (2000, 500, 100, 91),  # 22 slices, each of which fills an H100
    ],
)
def test_a_batch_goes_in_slices_rather_than_without_registers(N, T, C, S, sequences):
    chosen = plan(N, T, C, S)
    assert chosen.variant in IN_REGISTERS
    assert chosen.variant.slots > S
    assert chosen.sequences == sequences
    assert chosen.scratch <= 256 * MIB
    assert plan(N, T, C, S, limit=1 << 40).sequences == N


@pytest.mark.parametrize(("N", "T", "S"), [(64, 20_000, 143), (3, 20_000, 539), (1000, 20_000, 31)])
def test_many_slices_of_few_sequences_are_worse_than_checkpoints(N, T, S):
    assert plan(N, T, 30, S).variant == ANY_LENGTH


def test_a_single_sequence_may_exceed_the_limit():
    chosen = plan(N=3, T=20_000, S=2000, limit=MIB)
    assert chosen.sequences == 1
    assert chosen.scratch > MIB


def test_the_loss_alone_keeps_no_paths():
    assert "paths" not in plan(grad=False).sizes
    assert "paths" not in plan(S=600, grad=False).sizes


def path_plan(N=4, T=200, S=20, *, limit=256 * MIB, threads=512):
    return make_path_plan(N, T, S, real=4, limit=limit, threads=threads)


@pytest.mark.parametrize("N", [1, 7, 1000])
@pytest.mark.parametrize("T", [1, 2, 500, 4096, 20_000])
@pytest.mark.parametrize("S", [0, 30, 500, 3000])
@pytest.mark.parametrize("threads", [96, 512])
def test_a_path_has_room(N, T, S, threads):
    """For each position of a span a thread and a place for its choices, within the limit."""
    chosen = path_plan(N, T, S, threads=threads)
    assert chosen.scratch <= 256 * MIB
    assert 1 <= chosen.sequences <= N
    assert chosen.span * chosen.spans >= T
    assert chosen.threads % 32 == 0
    choices = chosen.sizes["choices"] // chosen.sequences
    assert choices == chosen.span * chosen.units * 16
    if chosen.spans == 1:
        assert chosen.width <= chosen.threads
        assert chosen.width <= 32 * chosen.units
        assert choices <= 65536
    else:
        window = min(chosen.span + 32, -(-chosen.width // 32) * 32)
        assert window <= min(chosen.threads, 32 * chosen.units)
        assert chosen.sizes["kept"] == chosen.sequences * chosen.spans * chosen.width * 16
    assert ("strips" in chosen.sizes) == (chosen.width > threads)


def test_a_path_takes_the_square_root_of_the_frames():
    short, long = (path_plan(1, T, 1000).sizes for T in (10_000, 40_000))
    assert long["kept"] + long["choices"] < 2.1 * (short["kept"] + short["choices"])
    assert path_plan(1, 180_000, 50_000).scratch < 350e6


def test_paths_of_many_sequences_go_in_slices_of_equal_size():
    assert path_plan(64, 2000, 500).sequences == 64
    assert path_plan(100, 20_000, 3000).sequences == 50


@pytest.mark.parametrize("chosen", [plan(S=20), plan(S=600), path_plan(), path_plan(T=9000, S=900)])
def test_parts_of_the_scratch_memory_do_not_overlap(chosen):
    ends = 0
    for name, offset in offsets(chosen.sizes).items():
        assert offset % 256 == 0
        assert offset >= ends
        ends = offset + chosen.sizes[name]
    assert ends <= chosen.scratch


def test_grids_stay_within_what_cuda_takes():
    assert grid(10, 3) == (3, 3)
    assert grid(10, 3, lists=True) == (4, 3)
    across, down = grid(2**40, 2**40, lists=True)
    assert across < 2**31
    assert down <= 65535


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "much"])
def test_a_limit_that_is_none_is_an_error(text, monkeypatch):
    monkeypatch.setenv("CTCX_CUDA_SCRATCH_MIB", text)
    with pytest.raises(CTCInputError, match=r"CTCX_CUDA_SCRATCH_MIB must be a whole number"):
        scratch_limit()


def test_the_limit_can_be_set(monkeypatch):
    monkeypatch.setenv("CTCX_CUDA_SCRATCH_MIB", "12")
    assert scratch_limit() == 12 * MIB
