"""The example about nanopore reads, on the logits that the package chiron has."""

import re
import runpy
from pathlib import Path


def test_reads_are_called_as_the_page_says(capsys):
    example = Path(__file__).parents[2] / "docs/examples/decode_reads.py"
    runpy.run_path(str(example), run_name="__main__")
    told = capsys.readouterr().out
    assert "1100 reads of 300 frames, called with 13.5 bases on average" in told
    assert "calls 922 reads (84%) differently" in told
    assert re.search(r"more probable one of 910 reads, the greedy call\nof 11,", told)
    assert told.endswith("  T in frames 40 to 40\n  T in frames 42 to 42\n")
