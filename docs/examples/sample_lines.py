"""Draw paths of the bundled text lines, and say which characters have uncertain places.

Run it with ``python docs/examples/sample_lines.py``; it needs NumPy and ctcx.
"""

import numpy as np

import ctcx
from ctcx.data.bundled import ocr_lines

PATHS = 200


def main() -> None:
    """Print the entropy of each line, and the first frames of its characters in the paths."""
    lines = ocr_lines()
    lengths = (lines.logit_lengths, lines.label_lengths)
    given = (lines.logits, lines.labels)
    entropy = ctcx.ctc_entropy(*given, *lengths, blank=lines.blank)
    shape = (len(lines.logits), PATHS, lines.logits.shape[1])
    uniforms = np.random.default_rng(0).random(shape)
    states = ctcx.ctc_sample_paths(*given, uniforms, *lengths, blank=lines.blank)
    for n, text in enumerate(lines.texts):
        print(f"{text!r}: about {np.exp(entropy[n]):.1f} paths")
        for j in range(int(lines.label_lengths[n])):
            starts = (states[n] == 2 * j + 1).argmax(axis=1)
            if starts.min() < starts.max():
                character = lines.alphabet[int(lines.labels[n, j])]
                print(f"  {character!r} starts between frames {starts.min()} and {starts.max()}")


if __name__ == "__main__":
    main()
