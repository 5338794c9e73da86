"""Say where each character of the bundled text lines stands, and which lines don't fit their text.

Run it with ``python docs/examples/align_lines.py``; it needs NumPy and ctcx.
"""

import numpy as np

import ctcx
from ctcx.data.bundled import ocr_lines

MISFIT = -0.05
"""Nats a frame below the best path without labels at which a text is in doubt."""


def main() -> None:
    """Print a table of characters for each line."""
    lines = ocr_lines()
    found = ctcx.ctc_align(
        lines.logits, lines.labels, lines.logit_lengths, lines.label_lengths, blank=lines.blank
    )
    peaks = lines.logits.max(axis=2)
    log_sums = np.log(np.exp(lines.logits - peaks[:, :, None]).sum(axis=2))
    for n, text in enumerate(lines.texts):
        length = int(lines.logit_lengths[n])
        # The best path of all has the largest class of each frame.
        lost = (float(found.score[n]) + float(log_sums[n, :length].sum())) / length
        verdict = "in doubt" if lost < MISFIT else "fits"
        print(f"{text!r} ({lines.conditions[n]}): {lost:.2f} nats a frame, {verdict}")
        for span in ctcx.spans(found, n, lines.alphabet):
            print(f"  {span.token}  {span.start:3}-{span.end:<3} {np.exp(span.log_prob):.3f}")


if __name__ == "__main__":
    main()
