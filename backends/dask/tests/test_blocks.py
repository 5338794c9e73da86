"""Calls on dask arrays give what calls on whole arrays give, whatever the chunks are."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest

import ctcx
from backends.dask.tests.problems import (
    C,
    N,
    T,
    check_same,
    computed,
    in_chunks,
    of_unknown_chunks,
    problem,
)

LOGITS, LABELS, LOGIT_LENGTHS, LABEL_LENGTHS = WHOLE = problem()
CALLS = {
    "ctc_loss": {},
    "ctc_loss_and_grad": {},
    "ctc_align": {"infeasible": "empty"},
    "ctc_greedy": {},
    "ctc_beam_search": {"top": 2, "width": 4},
}


def call(name, arrays, **options):
    """Call the function of that name, without labels if it takes none."""
    decodes = name in {"ctc_greedy", "ctc_beam_search"}
    return getattr(ctcx, name)(*(arrays[::2][:2] if decodes else arrays), **options)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("sizes", [5, (1, 22), (0, 10, 0, 13)])
def test_the_chunks_along_the_sequences_do_not_matter(name, sizes):
    chunks = (sizes if isinstance(sizes, tuple) else 5, 7, 23, (20, 3))
    check_same(
        call(name, in_chunks(WHOLE, *chunks), **CALLS[name]), call(name, WHOLE, **CALLS[name])
    )


@pytest.mark.parametrize("name", CALLS)
def test_time_major_logits_and_host_labels(name):
    turned = (LOGITS.transpose(1, 0, 2), LABELS.tolist(), *WHOLE[2:])
    lazy = da.from_array(turned[0], chunks=(-1, 6, -1))
    options = CALLS[name] | {"time_major": True, "blank": -C}
    check_same(call(name, (lazy, *turned[1:]), **options), call(name, turned, **options))


@pytest.mark.parametrize("name", CALLS)
def test_one_sequence(name):
    whole = (LOGITS[0], LABELS[0], int(LOGIT_LENGTHS[0]), int(LABEL_LENGTHS[0]))
    lazy = (da.from_array(LOGITS)[0], da.from_array(LABELS, chunks=2)[0], *whole[2:])
    check_same(call(name, lazy, **CALLS[name]), call(name, whole, **CALLS[name]))
    lengths = (da.from_array(LOGIT_LENGTHS)[0], da.from_array(LABEL_LENGTHS)[:1])
    check_same(call(name, (*lazy[:2], *lengths), **CALLS[name]), call(name, whole, **CALLS[name]))


@pytest.mark.parametrize("name", CALLS)
def test_unknown_sizes_of_chunks(name):
    logits, *others = in_chunks(WHOLE, 5, 5, 5, 5)
    lazy = (of_unknown_chunks(logits), *others)
    check_same(call(name, lazy, **CALLS[name]), call(name, WHOLE, **CALLS[name]))


@pytest.mark.parametrize("name", CALLS)
def test_no_sequences(name):
    none = tuple(array[:0] for array in WHOLE)
    check_same(
        call(name, tuple(map(da.from_array, none)), **CALLS[name]), call(name, none, **CALLS[name])
    )


@pytest.mark.parametrize("function", [ctcx.ctc_loss, ctcx.ctc_loss_and_grad])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "mean_per_label"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_reductions(function, reduction, dtype):
    whole = problem(1, dtype)
    lazy = (da.from_array(whole[0], chunks=((9, 0, 14), -1, -1)), *whole[1:])
    options = {"reduction": reduction, "infeasible": "zero"}
    check_same(function(*lazy, **options), function(*whole, **options))


def test_bfloat16_is_computed_in_blocks():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    whole = problem(1, bfloat16)
    lazy = in_chunks(whole, 9, 9, 9, 9)
    for name, options in CALLS.items():
        check_same(call(name, lazy, **options), call(name, whole, **options))
    right = ctcx.ctc_loss_and_grad(*whole, reduction="mean", infeasible="zero").grad
    found = ctcx.ctc_loss_and_grad(*lazy, reduction="mean", infeasible="zero").grad.compute()
    assert found.dtype == right.dtype == bfloat16
    np.testing.assert_allclose(found.astype(float), right.astype(float), rtol=0.02, atol=1e-5)


def test_lazy_lengths_beyond_the_ends_of_lists_are_refused():
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[0, 1\] is -1 .*that of lists"):
        ctcx.ctc_loss(
            LAZY[:2], [[1], [2, 3]], None, da.from_array(np.array([2, 2])), blank=5
        ).compute(scheduler="synchronous")


def test_the_core_says_what_it_cannot_do_on_dask_arrays():
    for name in ("ctc_align", "ctc_greedy", "ctc_beam_search"):
        with pytest.raises(ctcx.BackendRejectedError, match="no take_along_axis: ctcx-dask has al"):
            call(name, (LAZY, LABELS, None, None), backend="array-api")


def test_other_functions_need_known_sizes_and_heads_say_where_to_call_them():
    labels = da.from_array(LABELS, chunks=5)
    for call in (ctcx.ctc_entropy, ctcx.ctc_occupancies):
        with pytest.raises(ctcx.CTCInputError, match=r"logits must have known.*logits\.com"):
            call(UNKNOWN, labels)
    with pytest.raises(ctcx.CTCInputError, match=r"labels must have .*labels\.compute_chunk_sizes"):
        ctcx.min_frames(labels[labels[:, 0] > 0])
    head = LAZY, da.from_array(np.eye(C, dtype=np.float32)), None, LABELS
    with pytest.raises(ctcx.CTCInputError, match=r"hidden is an array of dask.*map_blocks"):
        ctcx.linear_ctc_loss_and_grad(*head)


def test_lists_of_labels_and_options_of_each_function():
    lazy, labels = da.from_array(LOGITS, chunks=(5, -1, -1)), [[1, 2], [3], []] * 7 + [[1], [2]]
    for options in (
        {"wildcards": {-2: ("any", -1.0)}, "free_ends": (0.5, None)},
        {"blank": 5},
    ):
        check_same(
            ctcx.ctc_align(lazy, labels, **options), ctcx.ctc_align(LOGITS, labels, **options)
        )
    for options in (
        {"boost": {(1, 2): 2.0}, "exact_scores": False},
        {"label_bonus": 0.5, "max_classes": 3, "validate": False},
    ):
        check_same(ctcx.ctc_beam_search(lazy, **options), ctcx.ctc_beam_search(LOGITS, **options))
    check_same(
        ctcx.ctc_greedy(lazy, merge_repeated=False), ctcx.ctc_greedy(LOGITS, merge_repeated=False)
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_graph_is_small_and_lazy_and_a_block_is_computed_once(name, monkeypatch):
    calls = []
    real = getattr(ctcx, name)
    lazy = call(name, in_chunks(WHOLE, 2, 2, 2, 2), **CALLS[name])
    parts = lazy if isinstance(lazy, tuple) else (lazy,)
    tasks = set().union(*(dict(part.__dask_graph__()) for part in parts))
    assert len(tasks) <= 16 * 12

    def counted(*arguments, **options):
        calls.append(len(arguments[0] if arguments else options["logits"]))
        return real(*arguments, **options)

    monkeypatch.setattr(ctcx, name, counted)
    computed(parts)
    assert sorted(calls) == [1] + [2] * 11
    (optimized,) = dask.optimize(parts[-1])
    computed(optimized)
    assert sum(calls) == 2 * N


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_schedulers_and_persist(scheduler):
    lazy = ctcx.ctc_loss_and_grad(*in_chunks(WHOLE, 12, 12, 12, 12))
    check_same(lazy, ctcx.ctc_loss_and_grad(*WHOLE), scheduler)
    if scheduler == "threads":
        kept = dask.persist(*lazy, scheduler=scheduler)
        check_same(tuple(kept), ctcx.ctc_loss_and_grad(*WHOLE))


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_errors_in_blocks_name_sequences_of_the_whole(scheduler):
    logits, labels, *lengths = (array.copy() for array in WHOLE)
    labels[17, 1], lengths[1][17] = 9, 3
    lazy = in_chunks((logits, labels, *lengths), 5, 5, 5, 5)
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[17, 1\] is 9 \(sequence 17, ") as found:
        ctcx.ctc_loss(*lazy).compute(scheduler=scheduler)
    assert (found.value.argument, found.value.sequence, found.value.value) == ("labels", 17, 9)
    lengths = np.where(np.arange(N) == 20, 1, T)
    lazy = ctcx.ctc_align(*in_chunks((LOGITS, LABELS, lengths), 10, 10, 10))
    with pytest.raises(ctcx.InfeasibleError, match=r"1 of the 3 sequences from 20 to 22: 20\. Seq"):
        computed(lazy.states, scheduler)


def test_errors_in_blocks_of_unknown_size_name_the_block():
    logits, labels, lengths, _ = in_chunks(WHOLE, 5, 5, 5, 5)
    labels = labels[labels[:, 0] > 0]  # their numbers are unknown too
    lengths = da.where(da.arange(N, chunks=5) == 13, 101, lengths)
    lazy = (of_unknown_chunks(logits), labels, lengths[lengths > 0])
    with pytest.raises(ctcx.CTCInputError, match=r"logit_lengths\[3\] is 101") as found:
        ctcx.ctc_loss(*lazy).compute(scheduler="synchronous")
    again = pickle.loads(pickle.dumps(found.value))
    assert "in block 2, whose sequences are numbered from 0" in again.__notes__[0]
    # Where the labels know, errors say so.
    lazy = (lazy[0], da.from_array(LABELS + 9 * (np.arange(N) == 12)[:, None], chunks=(5, -1)))
    with pytest.raises(ctcx.CTCInputError, match=r"labels\[12, 0\]"):
        ctcx.ctc_loss(*lazy).compute(scheduler="synchronous")


LAZY = da.from_array(LOGITS, chunks=(5, -1, -1))
UNKNOWN = of_unknown_chunks(LAZY)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((LAZY.rechunk((5, 7, -1)), LABELS), "2 chunks along their frames (axis 1), and a"),
        ((LAZY.rechunk((5, -1, 3)), LABELS), "pass logits.rechunk({1: -1, 2: -1})"),
        ((UNKNOWN, LABELS), "call logits.compute_chunk_sizes() first"),
        ((UNKNOWN, da.from_array(LABELS, chunks=7)), "labels are in 4 chunks and logits in 5"),
        ((LAZY[:, :, 0][:, LAZY[0, :, 0] > 0][..., None], LABELS), "must have known sizes"),
        ((LAZY, LABELS[:7]), "labels must have shape (23, S)"),
        ((LAZY, LABELS.astype(float)), "labels must have an integer dtype"),
        ((LAZY, LABELS, LABELS), "logit_lengths must have shape (23,)"),
        ((LAZY[None], LABELS), "got (1, 23, 14, 6)"),
        ((LAZY.astype(int), LABELS), "logits must have one of the dtypes"),
        ((LAZY.astype(complex), LABELS), "got complex128"),
        ((LAZY, {1, 2}), "labels must be an array of integers or a list"),
        (
            (LOGITS, da.from_array(LABELS)),
            "labels is an array of dask.array, but",
        ),
    ],
)
def test_what_can_be_told_before_is_refused_at_once(arguments, words):
    with pytest.raises(ctcx.CTCInputError) as found:
        ctcx.ctc_loss(*arguments)
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("function", "options", "argument"),
    [
        (ctcx.ctc_loss, {"blank": 6}, "blank"),
        (ctcx.ctc_loss, {"reduction": "all"}, "reduction"),
        (ctcx.ctc_loss_and_grad, {"infeasible": "empty"}, "infeasible"),
        (ctcx.ctc_loss, {"validate": 1}, "validate"),
        (ctcx.ctc_align, {"time_major": None}, "time_major"),
        (ctcx.ctc_align, {"wildcards": {-3: ("all", 0.0)}}, "wildcards"),
        (ctcx.ctc_greedy, {"merge_repeated": 2}, "merge_repeated"),
        (ctcx.ctc_beam_search, {"top": 3, "width": 2}, "top"),
        (ctcx.ctc_beam_search, {"width": 0}, "width"),
        (ctcx.ctc_beam_search, {"exact_scores": None}, "exact_scores"),
        (ctcx.ctc_beam_search, {"lm_weight": 0.5}, "lm_weight"),
        (ctcx.ctc_beam_search, {"lm": "a model"}, "lm"),
        (ctcx.ctc_beam_search, {"label_bonus": "much"}, "label_bonus"),
        (ctcx.ctc_beam_search, {"boost": [1]}, "boost"),
        (ctcx.ctc_beam_search, {"state": ctcx.BeamState()}, "state"),
    ],
)
def test_wrong_options_are_refused_at_once(function, options, argument):
    arrays = (LAZY,) if function in {ctcx.ctc_greedy, ctcx.ctc_beam_search} else (LAZY, LABELS)
    with pytest.raises(ctcx.CTCInputError) as found:
        function(*arrays, **options)
    assert found.value.argument == argument


def test_a_mean_needs_the_number_of_sequences():
    with pytest.raises(ctcx.CTCInputError, match="divides by the number of sequences"):
        ctcx.ctc_loss(UNKNOWN, da.from_array(LABELS, chunks=5), reduction="mean")
    lazy = ctcx.ctc_loss(UNKNOWN, da.from_array(LABELS, chunks=5), reduction="sum")
    check_same(lazy, ctcx.ctc_loss(LOGITS, LABELS, reduction="sum"))


def test_masked_blocks_are_refused():
    masked = da.ma.masked_less(LAZY, -1)
    with pytest.raises(ctcx.CTCInputError, match="masked"):
        ctcx.ctc_loss(masked, LABELS).compute(scheduler="synchronous")


def test_blocks_are_computed_by_the_best_backend_or_by_those_asked_for(monkeypatch):
    def ran(**options):
        lazy = ctcx.ctc_loss(LAZY, LABELS, **options)
        with ctcx.trace() as runs:
            lazy.compute(scheduler="synchronous")
        (name,) = {run.backend for run in runs}
        return name

    best = ctcx.explain(LOGITS, LABELS).selected.backend.name
    assert ran() == ran(backend="dask") == best
    with ctcx.use_backend("dask", "array-api"):
        assert ran() == "array-api"
    with ctcx.use_backend("dask"):
        assert ran() == best
    monkeypatch.setenv("CTCX_BACKEND", "dask,array-api")
    assert ran() == "array-api"
    monkeypatch.setenv("CTCX_BACKEND", "array-api")
    with ctcx.trace() as runs:
        ctcx.ctc_loss(LAZY[:2, :2], [[1]] * 2)
    assert [run.backend for run in runs] == ["array-api"]
    with pytest.raises(ctcx.BackendRejectedError, match="dask"):
        ctcx.ctc_loss(LOGITS, LABELS, backend="dask")


def test_explain_and_trace_name_dask():
    decision = ctcx.explain(UNKNOWN, da.from_array(LABELS, chunks=5), operation="loss")
    assert decision.selected.backend.name == "dask"
    assert (decision.problem.namespace, decision.problem.T) == ("dask.array", T)
    with ctcx.trace() as runs:
        ctcx.ctc_greedy(LAZY)
    assert [(run.backend, run.operation) for run in runs] == [("dask", "greedy")]
