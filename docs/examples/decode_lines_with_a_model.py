"""Read the bundled text lines with a small n-gram model of characters.

The model of each line is made of the texts of the other seven. Two of the lines say the same, so it
knows the words of one that is misread without it; of another it knows none.

Run it with ``python docs/examples/decode_lines_with_a_model.py``; it needs NumPy and ctcx.
"""

import math
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

import ctcx
from ctcx.data.bundled import ocr_lines

ORDER = 4
"""The most characters of an n-gram."""


def write_arpa(path: Path, sentences: list[list[str]]) -> None:
    """Write an n-gram model, smoothed as by Witten and Bell (IEEE Trans. Inf. Theory 37, 1991)."""
    followers: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        marked = ["<s>", *sentence, "</s>"]
        for place in range(1, len(marked)):
            for size in range(min(ORDER, place + 1)):
                followers[tuple(marked[place - size : place])][marked[place]] += 1
    vocabulary = 2 + len(followers[()])

    def probability(context: tuple[str, ...], token: str) -> float:
        counts = followers[context]
        shorter = probability(context[1:], token) if context else 1 / vocabulary
        share = len(counts) / (counts.total() + len(counts))
        return (1 - share) * counts[token] / counts.total() + share * shorter

    parts: list[list[str]] = [[] for _ in range(ORDER)]
    grams = [(*context, token) for context, counts in followers.items() for token in counts]
    for gram in [("<s>",), ("<unk>",), *grams]:
        log_prob = -99.0 if gram == ("<s>",) else math.log10(probability(gram[:-1], gram[-1]))
        counts = followers.get(gram)
        share = len(counts) / (counts.total() + len(counts)) if counts else 1.0
        back_off = f"\t{math.log10(share):.6f}" if len(gram) < ORDER else ""
        parts[len(gram) - 1].append(f"{log_prob:.6f}\t{' '.join(gram)}{back_off}")
    lines = ["\\data\\", *(f"ngram {n}={len(part)}" for n, part in enumerate(parts, start=1))]
    for n, part in enumerate(parts, start=1):
        lines += ["", f"\\{n}-grams:", *part]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


def main() -> None:
    """Print what a beam reads without a model, and with one of the texts of the other lines."""
    lines = ocr_lines()
    names = ["<space>" if token == " " else token for token in lines.alphabet]

    def text_of(labels: np.ndarray) -> str:
        return "".join(lines.alphabet[label] for label in labels if label >= 0)

    for n, written in enumerate(lines.texts):
        others = [text for k, text in enumerate(lines.texts) if k != n]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "characters.arpa")
            write_arpa(path, [["<space>" if c == " " else c for c in text] for text in others])
            model = ctcx.NGram.from_arpa(path, names)
        logits = lines.logits[n, : lines.logit_lengths[n]]
        plain = ctcx.ctc_beam_search(logits, blank=lines.blank)
        found = ctcx.ctc_beam_search(
            logits, blank=lines.blank, lm=model, lm_weight=0.5, label_bonus=1.0
        )
        print(f"{written!r}: {text_of(plain.labels[0])!r}, with {text_of(found.labels[0])!r}")


if __name__ == "__main__":
    main()
