"""Read the bundled text lines greedily and with a beam, and compare with what is written there.

Run it with ``python docs/examples/decode_lines.py``; it needs NumPy and ctcx.
"""

import numpy as np

import ctcx
from ctcx.data.bundled import ocr_lines


def main() -> None:
    """Print both readings of each line, and how probable the beam's alternatives are."""
    lines = ocr_lines()

    def text_of(labels: np.ndarray) -> str:
        return "".join(lines.alphabet[label] for label in labels if label >= 0)

    arrays = (lines.logits, lines.logit_lengths)
    greedy = ctcx.ctc_greedy(*arrays, blank=lines.blank)
    beams = ctcx.ctc_beam_search(*arrays, blank=lines.blank, width=16, top=3)
    for n, written in enumerate(lines.texts):
        said = text_of(greedy.labels[n])
        verdict = "right" if said == written else "wrong"
        print(f"{written!r} ({lines.conditions[n]}): greedily {said!r}, {verdict}")
        for k in range(int(beams.count[n])):
            found = text_of(beams.labels[n, k])
            mark = " <- as written" if found == written else ""
            print(f"  {np.exp(beams.log_probs[n, k]):.3f}  {found!r}{mark}")


if __name__ == "__main__":
    main()
