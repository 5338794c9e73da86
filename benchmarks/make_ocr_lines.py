"""Make ``ocr_lines.npz``: what a real text recogniser emits for a few drawn lines of text.

The lines are drawn with Pillow's bundled font, some are then blurred or buried in seeded noise, and
the recogniser's values before its softmax are kept. The label of a line is the text that was drawn.
No network, no system font and no clock is involved: with the requirements below, one machine makes
the same bytes each time. (Another processor may sum in another order, which can move single values
by one quantisation step.)

Requirements, for Python 3.11 or 3.12; none of them is needed to *use* the file::

    numpy==2.4.6
    onnx==1.23.2
    onnxruntime==1.32.0
    pillow==13.0.0
    rapidocr-onnxruntime==1.4.4

Run it with::

    python benchmarks/make_ocr_lines.py --out ocr_lines.npz
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODEL = "ch_PP-OCRv4_rec_infer.onnx"
MODEL_SHA256 = "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
BLANK = 0
HEIGHT = 48  # pixels; the recogniser's fixed input height
STRIDE = 8  # pixels of width for each frame

# Quantisation, in nats. Only the classes near the best one matter to the probabilities, so those
# get a fine step. A class more than WINDOW below its frame's best has less than exp(-WINDOW) = 6e-6
# of its probability: a coarse step is enough there, and brings the file below four bits a logit.
STEP = 1 / 64
WINDOW = 12.0
TAIL_STEP = 2.0

PROVENANCE = (
    f"Values before the softmax of the text recogniser {MODEL} "
    f"(SHA-256 {MODEL_SHA256}) of the PyPI package rapidocr-onnxruntime 1.4.4, for lines of text "
    "drawn with Pillow's bundled font (Aileron Regular); quantised. Made by "
    "benchmarks/make_ocr_lines.py."
)
LICENCE = (
    "The model is PP-OCRv4 by PaddlePaddle, converted to ONNX by RapidOCR, whose README says that "
    "Baidu holds its copyright. The metadata of rapidocr-onnxruntime 1.4.4 says 'License: "
    "Apache-2.0'; the wheel carries no licence file, and the model file itself states no licence. "
    "The repositories RapidAI/RapidOCR and PaddlePaddle/PaddleOCR are under the Apache License "
    "2.0. This file carries outputs of the model and its character list, not its weights."
)


@dataclass(frozen=True)
class Line:
    """A line of text and how it is drawn.

    Attributes
    ----------
    text : str
        What to draw; also the label.
    size : int
        Font size, in pixels.
    blur : float
        Radius of a Gaussian blur, in pixels; 0 for none.
    noise : float
        Standard deviation of Gaussian noise added after the blur, in grey levels; 0 for none.
    seed : int
        Seed of the noise.
    """

    text: str
    size: int = 34
    blur: float = 0.0
    noise: float = 0.0
    seed: int = 0

    @property
    def condition(self) -> str:
        """How the line was spoiled, in words."""
        spoiled = [
            f"{what} {amount:g}"
            for what, amount in (("blur", self.blur), ("noise", self.noise))
            if amount
        ]
        return ", ".join(spoiled) or "clean"


# Doubled letters matter: CTC must put a blank between them, or one of the two is lost. Of the last
# three lines the first is read rightly but with doubt, and the other two are misread.
LINES = (
    Line("red balloon"),
    Line("bookkeeper"),
    Line("committee"),
    Line("Mississippi"),
    Line("1,002 apples"),
    Line("wooden floor", size=30, blur=1.0, noise=90.0, seed=3),
    Line("wooden floor", size=32, blur=2.0, noise=80.0, seed=3),
    Line("hot coffee", size=32, blur=4.0),
)


def draw(line: Line) -> NDArray[np.uint8]:
    """Draw a line, black on white.

    Parameters
    ----------
    line : Line
        What to draw, and how.

    Returns
    -------
    ndarray of uint8, shape (HEIGHT, W)
        Grey levels; W is a multiple of the stride.
    """
    image_module = _load("PIL.Image")
    font = _load("PIL.ImageFont").load_default(line.size)
    width = -(-(int(np.ceil(font.getlength(line.text))) + 12) // STRIDE) * STRIDE
    image = image_module.new("L", (width, HEIGHT), 255)
    middle = (width / 2, HEIGHT / 2)
    _load("PIL.ImageDraw").Draw(image).text(middle, line.text, font=font, fill=0, anchor="mm")
    if line.blur:
        image = image.filter(_load("PIL.ImageFilter").GaussianBlur(line.blur))
    grey = np.asarray(image, dtype=np.float64)
    if line.noise:
        grey = grey + np.random.default_rng(line.seed).normal(0.0, line.noise, grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


class Recogniser:
    """The recogniser up to its softmax.

    Attributes
    ----------
    alphabet : list of str
        The character of each class, the empty string for the blank.
    """

    def __init__(self) -> None:
        # find_spec finds the package without importing it, and with it all of its image processing.
        spec = importlib.util.find_spec("rapidocr_onnxruntime")
        if spec is None or spec.origin is None:
            raise SystemExit(
                "rapidocr-onnxruntime is not installed: see the requirements in --help"
            )
        data = (Path(spec.origin).parent / "models" / MODEL).read_bytes()
        if (found := hashlib.sha256(data).hexdigest()) != MODEL_SHA256:
            raise SystemExit(f"{MODEL} is another model: its SHA-256 is {found}")
        onnx = _load("onnx")
        model = onnx.load_from_string(data)
        softmax = model.graph.node[-1]
        if softmax.op_type != "Softmax":
            raise SystemExit(f"the last node of {MODEL} is {softmax.op_type}, not Softmax")
        self._logits_name = softmax.input[0]
        logits = onnx.helper.make_tensor_value_info(self._logits_name, onnx.TensorProto.FLOAT, None)
        model.graph.node.remove(softmax)
        del model.graph.output[:]
        model.graph.output.append(logits)
        (characters,) = (entry.value for entry in model.metadata_props if entry.key == "character")
        # The list in the model lacks the blank, which is first, and the space, which is last.
        self.alphabet = ["", *characters.split("\n"), " "]

        onnxruntime = _load("onnxruntime")
        options = onnxruntime.SessionOptions()
        # One thread, so that sums are always taken in the same order.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def logits(self, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits of an image.

        Parameters
        ----------
        grey : ndarray of uint8, shape (HEIGHT, W)
            Grey levels.

        Returns
        -------
        ndarray of float32, shape (frames, classes)
            Values before the softmax.
        """
        scaled = grey.astype(np.float32) / 127.5 - 1
        batch = np.broadcast_to(scaled, (1, 3, *scaled.shape)).copy()
        (output,) = self._session.run([self._logits_name], {"x": batch})
        logits: NDArray[np.float32] = output[0]
        return logits


def quantise(logits: NDArray[np.float32]) -> NDArray[np.int16]:
    """Express logits in whole steps, coarsely where a class is hopeless.

    Parameters
    ----------
    logits : ndarray of float32, shape (frames, classes)
        Values before the softmax.

    Returns
    -------
    ndarray of int16, shape (frames, classes)
        Logits in units of `STEP`.
    """
    coarse = round(TAIL_STEP / STEP)
    fine = np.rint(logits / STEP)
    hopeless = logits < logits.max(axis=-1, keepdims=True) - WINDOW
    steps: NDArray[Any] = np.where(hopeless, coarse * np.rint(fine / coarse), fine)
    return steps.astype(np.int16)


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return log-probabilities over the last axis, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def ctc_loss(log_probs: NDArray[np.float64], labels: Sequence[int]) -> float:
    """Return the CTC loss of one sequence: the forward recursion in the log domain, nothing more.

    The script checks what it writes with it, so it stays apart from the library that uses the file.

    Parameters
    ----------
    log_probs : ndarray of float64, shape (frames, classes)
        Log-probabilities.
    labels : sequence of int
        Classes of the text.

    Returns
    -------
    float
        Negative log-probability of the labels.
    """
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    # A label may follow the one before it directly, without a blank between, if the two differ.
    skips = np.zeros(len(states), dtype=np.bool_)
    skips[3::2] = states[3::2] != states[1:-2:2]
    alpha = np.full(len(states), -np.inf)
    alpha[:2] = log_probs[0, states[:2]]
    for frame in log_probs[1:]:
        one_back = np.concatenate(([-np.inf], alpha[:-1]))
        two_back = np.where(skips, np.concatenate(([-np.inf, -np.inf], alpha[:-2])), -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, one_back), two_back) + frame[states]
    return -float(np.logaddexp(alpha[-1], alpha[-2]))


def read(logits: NDArray[Any], alphabet: Sequence[str]) -> str:
    """Return the best path's text: the best class of each frame, less repeats and blanks."""
    path = logits.argmax(axis=-1)
    return "".join(
        alphabet[k] for t, k in enumerate(path) if k != BLANK and (t == 0 or k != path[t - 1])
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Make the file and print a table of what is in it.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line, by default the process's own.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .npz to write")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="also write the drawn lines as PNG"
    )
    arguments = parser.parse_args(argv)

    recogniser = Recogniser()
    class_of = {character: k for k, character in enumerate(recogniser.alphabet)}
    labels = [[class_of[character] for character in line.text] for line in LINES]
    quantised = []
    print(
        f"{'text':14}{'condition':20}{'greedy reading':16}{'frames':>6}{'loss':>9}{'moved by':>10}"
    )
    for number, (line, label) in enumerate(zip(LINES, labels, strict=True)):
        grey = draw(line)
        if arguments.images:
            arguments.images.mkdir(parents=True, exist_ok=True)
            _load("PIL.Image").fromarray(grey).save(arguments.images / f"line-{number}.png")
        logits = recogniser.logits(grey)
        kept = quantise(logits)
        before, after = log_softmax(logits), log_softmax(kept * STEP)
        reading = read(kept, recogniser.alphabet)
        if reading != read(logits, recogniser.alphabet):
            raise SystemExit(f"quantisation changes the reading of {line.text!r}")
        moved = float(np.abs(np.exp(after) - np.exp(before)).max())
        if moved > STEP / 2:
            raise SystemExit(f"quantisation moves a probability of {line.text!r} by {moved:.4f}")
        loss = ctc_loss(after, label)
        print(
            f"{line.text:14}{line.condition:20}{reading:16}{len(kept):6}{loss:9.4f}"
            f"{loss - ctc_loss(before, label):+10.4f}"
        )
        quantised.append(kept)

    padded = np.zeros((len(labels), max(map(len, labels))), dtype=np.int32)
    for row, label in zip(padded, labels, strict=True):
        row[: len(label)] = label
    # savez_compressed dates every member 1980-01-01, so the bytes do not depend on the day.
    with arguments.out.open("wb") as stream:
        np.savez_compressed(
            stream,
            quantised_logits=np.concatenate(quantised),
            step=np.float64(STEP),
            logit_lengths=np.array([len(rows) for rows in quantised], dtype=np.int32),
            labels=padded,
            label_lengths=np.array([len(label) for label in labels], dtype=np.int32),
            blank=np.int32(BLANK),
            texts=np.array([line.text for line in LINES]),
            conditions=np.array([line.condition for line in LINES]),
            alphabet=np.array(recogniser.alphabet),
            provenance=np.array(PROVENANCE),
            licence=np.array(LICENCE),
        )
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")
    used = ("numpy", "onnx", "onnxruntime", "pillow", "rapidocr-onnxruntime")
    print("made with", *(f"{name}=={version(name)}" for name in used))


def _load(module: str) -> Any:
    """Import a requirement of this script, which the package itself does not have.

    Going through importlib keeps the type checker from asking for packages that only this script
    needs.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(f"{error}: see the requirements in --help") from error


if __name__ == "__main__":
    main()
