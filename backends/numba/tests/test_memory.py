"""Memory safety: drawn problems, wrong values among them, with every index checked by Numba."""

import os
import subprocess
import sys
from pathlib import Path


def test_no_index_is_out_of_bounds(tmp_path):
    program = Path(__file__).with_name("drawn.py")
    # Numba takes compiled code from its folder whether indices are checked in it or not.
    settings = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, program],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("found: index")
