"""Make ARPA files of random numbers, and write down what KenLM says of them.

Needs KenLM (PyPI: kenlm), which has to be compiled; so the tests read what this has written:
``python tests/ngram/make.py`` with kenlm 0.3.0 wrote the files that are here.
"""

import json
import random
from pathlib import Path

import kenlm

HERE = Path(__file__).parent
WORDS = ("a", "bb", "c", "é", "日本", "d\u00a0d")


def grams(rng: random.Random, *, unknown: bool) -> list[list[tuple[str, ...]]]:
    """Return the n-grams of each order: each begins with one of them, and most end with one."""
    firsts = ["<s>", *WORDS, *(["<unk>"] if unknown else [])]
    followers = [*WORDS, "</s>", *(["<unk>"] if unknown else [])]
    found = [[(word,) for word in dict.fromkeys([*firsts, "</s>"])]]
    for count in (25, 30, 12):
        longer = [(*gram, word) for gram in found[-1] for word in followers if gram[-1] != "</s>"]
        usual = [gram for gram in longer if gram[1:] in found[-1]]
        others = [gram for gram in longer if gram[1:] not in found[-1]]
        chosen = rng.sample(usual, min(count, len(usual))) + rng.sample(others, min(2, len(others)))
        found.append(sorted(chosen))
    return found


def write(path: Path, seed: int, *, unknown: bool) -> None:
    """Write a model of random numbers, back-offs above 1 among them."""
    rng = random.Random(seed)
    parts = grams(rng, unknown=unknown)
    lines = ["\\data\\", *(f"ngram {n}={len(part)}" for n, part in enumerate(parts, start=1)), ""]
    for n, part in enumerate(parts, start=1):
        lines.append(f"\\{n}-grams:")
        for gram in part:
            log_prob = -99 if gram == ("<s>",) else -round(rng.uniform(0.1, 3), 4)
            back_off = f"\t{round(rng.uniform(-1, 0.2), 4)}"
            # A back-off of 1 may be left out.
            has_none = n == len(parts) or gram[-1] == "</s>" or rng.random() < 0.2
            lines.append(f"{log_prob}\t{' '.join(gram)}{'' if has_none else back_off}")
        lines.append("")
    path.write_text("\n".join([*lines, "\\end\\", ""]), encoding="utf-8")


def main() -> None:
    """Write both models, and KenLM's logarithms (base 10) of the words of random sentences."""
    known = {}
    for name, unknown in (("with_unknown", True), ("without_unknown", False)):
        path = HERE / f"{name}.arpa"
        write(path, seed=len(name), unknown=unknown)
        model = kenlm.Model(str(path))
        rng = random.Random(1)
        known[name] = []
        for length in [*range(8)] * 5:
            words = rng.choices([*WORDS, "never"], weights=[3] * len(WORDS) + [1], k=length)
            said = [score for score, _, _ in model.full_scores(" ".join(words))]
            known[name].append({"words": words, "log10": said})
    (HERE / "kenlm.json").write_text(json.dumps(known, ensure_ascii=False, indent=0), "utf-8")


if __name__ == "__main__":
    main()
