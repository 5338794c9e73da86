"""Call the bases of nanopore reads greedily and with a beam, and say where each base is.

The logits are those of 1,100 reads that the package chiron contains. They are looked up there, and
nothing of it is imported: ``pip install --no-deps chiron==0.6.1.1``, then
``python docs/examples/decode_reads.py``. With ``--widths`` it compares beams of several widths
instead, which takes minutes without ctcx-cpu.
"""

import sys
from importlib.metadata import files

import numpy as np

import ctcx

BASES = "ACGT"  # and the blank, the last class


def read_logits() -> np.ndarray:
    """Logits (1100, 300, 5) of chiron's sample of reads."""
    (path,) = [file for file in files("chiron") or () if file.name == "logits_sample.npy"]
    return np.load(path.locate()).astype(np.float32, copy=False)


def main() -> None:
    """Compare both ways to call, and print the first bases of the longest read."""
    logits = read_logits()
    blank = logits.shape[2] - 1
    greedy = ctcx.ctc_greedy(logits, blank=blank)
    beams = ctcx.ctc_beam_search(logits, blank=blank, width=10, top=2)

    def bases(labels: np.ndarray) -> str:
        return "".join(BASES[label] for label in labels if label >= 0)

    called = [bases(labels) for labels in beams.labels[:, 0]]
    other = sum(bases(labels) != best for labels, best in zip(greedy.labels, called, strict=True))
    mean = np.mean(beams.lengths[:, 0])
    print(
        f"{len(called)} reads of {logits.shape[1]} frames, called with {mean:.1f} bases on average"
    )
    print(f"the beam calls {other} reads ({other / len(called):.0%}) differently")
    apart = np.median(beams.log_probs[:, 0] - beams.log_probs[:, 1])
    print(f"its two best calls of a read are {apart:.2f} nats apart (median)")

    gain = beams.log_probs[:, 0] + ctcx.ctc_loss(
        logits, greedy.labels, label_lengths=greedy.lengths, blank=blank
    )
    print(f"its call is the more probable one of {int((gain > 1e-3).sum())} reads, the greedy call")
    print(f"of {int((gain < -1e-3).sum())}, whose prefix had left the beam")

    longest = int(np.argmax(beams.lengths[:, 0]))
    alignment = ctcx.ctc_align(
        logits[longest], beams.labels[longest, 0, : beams.lengths[longest, 0]], blank=blank
    )
    print(f"read {longest} begins with")
    for span in ctcx.spans(alignment, tokens=BASES)[:5]:
        print(f"  {span.token} in frames {span.start} to {span.end - 1}")


def compare_widths() -> None:
    """Print how much less probable the calls of narrower beams are."""
    logits = read_logits()

    def best(width: int) -> np.ndarray:
        beams = ctcx.ctc_beam_search(logits, blank=logits.shape[2] - 1, width=width)
        return beams.log_probs[:, 0]

    widest = best(256)
    for width in (1, 4, 16, 64):
        lost = np.mean(widest - best(width))
        print(f"a beam of {width} finds calls {lost:.2f} nats less probable than one of 256 (mean)")


if __name__ == "__main__":
    compare_widths() if "--widths" in sys.argv else main()
