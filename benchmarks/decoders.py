"""Time the beam search of ctcx-cpu beside other decoders, in one process and one thread.

    python benchmarks/decoders.py [--width 10] [--classes 32] [--rounds 5] [--without NAME ...]
    python benchmarks/decoders.py --phrases 1000 [--width 10] [--classes 32] [--rounds 5]
    python benchmarks/decoders.py --greedy [--classes 32] [--sequences 16] [--rounds 5]

The second one times the search with random phrases that goes on from a state, and the same without
phrases, on ctcx-cpu and on the core, beside a plain search of ctcx-cpu, which has neither. The
third one times greedy decoding, of it the kernel of ctcx-cpu, and two lower bounds: NumPy's maximum
over the classes, and adding up all logits, which reads them once.

Needs ctcx-cpu. TensorFlow, fast-ctc-decode, flashlight-text and ctc-beam-decoder take part if they
are installed, each with all candidates of a frame if it can do so. Calls are interleaved, and the
least CPU time of each counts: compare times of one run only. Emissions are made up: peaky ones are
mostly blank, as those of trained models are, flat ones normal.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CTCX_NUM_THREADS"] = "1"

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES = 400


def emissions(kind: str, sequences: int, classes: int) -> Any:
    """Logits (N, T, C), the blank first."""
    rng = np.random.default_rng(0)
    shape = sequences, FRAMES
    if kind == "flat":
        return (1.5 * rng.normal(size=(*shape, classes))).astype(np.float32)
    x = rng.normal(size=(*shape, classes)).astype(np.float32)
    spoken = np.where(rng.random(shape) < 0.25, rng.integers(1, classes, shape), 0)
    spoken = np.where(rng.random(shape) < 0.08, rng.integers(1, classes, shape), spoken)
    peaks = (8 + rng.normal(size=(*shape, 1))).astype(np.float32)
    np.put_along_axis(x, spoken[..., None], peaks, axis=2)
    return x


def softmax(x: Any) -> Any:
    """Probabilities, for decoders that take them: not timed."""
    p = np.exp(x - x.max(axis=2, keepdims=True))
    return p / p.sum(axis=2, keepdims=True)


def ctcx_cpu(x: Any, width: int) -> Callable[[], object]:
    """ctcx-cpu, the softmax included."""
    import ctcx

    return lambda: ctcx.ctc_beam_search(x, width=width, exact_scores=False, backend="cpu")


def greedy(x: Any) -> dict[str, Callable[[], object]]:
    """Return greedy decoding, its kernel alone, and what can't be gone below."""
    from ctcx_cpu.kernels import greedy as kernel

    import ctcx

    lengths = np.full(len(x), FRAMES)
    return {
        "ctc_greedy": lambda: ctcx.ctc_greedy(x, backend="cpu"),
        "its kernel": lambda: kernel(x, lengths, blank=0),
        "maximum over classes": lambda: x.max(axis=2),
        "sum of all logits": lambda: x.reshape(-1).sum(),
    }


def guided(x: Any, width: int, backend: str, boost: dict[Any, float]) -> Callable[[], object]:
    """Return the search that begins with a state, on a backend, with phrases or without."""
    import ctcx

    options = {"width": width, "exact_scores": False, "backend": backend, "boost": boost}
    return lambda: ctcx.ctc_beam_search(x, state=ctcx.BeamState(), **options)


def phrases(count: int, classes: int) -> dict[Any, float]:
    """Return phrases of 2 to 8 random labels, with weights of 0.5 to 2."""
    rng = np.random.default_rng(1)
    drawn = [rng.integers(1, classes, rng.integers(2, 9)).tolist() for _ in range(count)]
    return {tuple(one): float(rng.uniform(0.5, 2)) for one in drawn}


def tensorflow(x: Any, width: int) -> Callable[[], object]:
    """TensorFlow's operator, whose blank is the last class; the softmax included."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    logits = tf.constant(np.roll(x, -1, axis=2).transpose(1, 0, 2))
    lengths = tf.fill([len(x)], FRAMES)
    return lambda: tf.nn.ctc_beam_search_decoder(logits, lengths, beam_width=width, top_paths=1)


def fast_ctc_decode(x: Any, width: int) -> Callable[[], object]:
    """fast-ctc-decode, without a threshold."""
    from fast_ctc_decode import beam_search

    p, alphabet = softmax(x), [chr(0x4E00 + c) for c in range(x.shape[2])]
    return lambda: [beam_search(one, alphabet, beam_size=width) for one in p]


def flashlight(x: Any, width: int) -> Callable[[], object]:
    """flashlight-text, without lexicon and language model, probabilities added, nothing pruned."""
    from flashlight.lib.text import decoder

    logs = np.log(softmax(x)).astype(np.float32)
    options = decoder.LexiconFreeDecoderOptions(
        beam_size=width,
        beam_size_token=x.shape[2],
        beam_threshold=1e9,
        lm_weight=0.0,
        sil_score=0.0,
        log_add=True,
        criterion_type=decoder.CriterionType.CTC,
    )
    search = decoder.LexiconFreeDecoder(options, decoder.ZeroLM(), -1, 0, [])
    return lambda: [search.decode(one.ctypes.data, *one.shape)[0] for one in logs]


def ctc_beam_decoder(x: Any, width: int, least: float = -10.0) -> Callable[[], object]:
    """ctc-beam-decoder, with its thresholds for prefixes and classes: it prunes."""
    from ctc_beam_decoder import build_ctcdecoder

    logs = np.log(softmax(x)).astype(np.float32)
    search = build_ctcdecoder(["", *(chr(0x4E00 + c) for c in range(1, x.shape[2]))])
    settings = {"beam_width": width, "beam_prune_logp": least, "token_min_logp": least / 2}
    return lambda: [search.decode_beams(one, **settings) for one in logs]


def ctc_beam_decoder_unpruned(x: Any, width: int) -> Callable[[], object]:
    """ctc-beam-decoder, without its thresholds."""
    return ctc_beam_decoder(x, width, -1e9)


PEERS = {
    "tensorflow": tensorflow,
    "fast_ctc_decode": fast_ctc_decode,
    "flashlight": flashlight,
    "ctc_beam_decoder": ctc_beam_decoder,
    "ctc_beam_decoder_unpruned": ctc_beam_decoder_unpruned,
}


def main() -> None:
    """Print a line for each decoder: milliseconds, and how many times those of the first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=10)
    parser.add_argument("--classes", type=int, default=32)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--phrases", type=int, default=0)
    parser.add_argument("--greedy", action="store_true")
    parser.add_argument("--without", nargs="*", default=[], choices=PEERS)
    asked = parser.parse_args()
    for kind in "peaky", "flat":
        x = emissions(kind, asked.sequences, asked.classes)
        searches = greedy(x) if asked.greedy else {"ctcx_cpu": ctcx_cpu(x, asked.width)}
        if asked.phrases:
            boost = phrases(asked.phrases, asked.classes)
            searches = {"plain search": ctcx_cpu(x, asked.width)} | {
                f"{backend}, {len(some)} phrases": guided(x, asked.width, backend, some)
                for backend in ("cpu", "array-api")
                for some in ({}, boost)
            }
        for name, peer in PEERS.items() if not (asked.phrases or asked.greedy) else ():
            if name not in asked.without and find_spec(name.removesuffix("_unpruned")):
                searches[name] = peer(x, asked.width)
        for search in searches.values():
            search()
        least = dict.fromkeys(searches, float("inf"))
        for _ in range(asked.rounds):
            for name, search in searches.items():
                began = time.process_time()
                search()
                least[name] = min(least[name], time.process_time() - began)
        print(f"{kind}: {x.shape}" + ("" if asked.greedy else f", width {asked.width}"))
        first = next(iter(least.values()))
        for name, seconds in least.items():
            ratio = seconds / first
            print(f"  {name:<26} {1e3 * seconds:10.2f} ms {ratio:8.2f} times")


if __name__ == "__main__":
    main()
