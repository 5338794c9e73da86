"""``python -m cuda_on_cpu thread|address ARGUMENTS``: run Python under a sanitizer.

``python -m cuda_on_cpu thread -m pytest -x tests/test_mine.py``, for example.
"""

from __future__ import annotations

import os
import sys

from cuda_on_cpu.sanitizers import sanitized_command

if len(sys.argv) < 3 or sys.argv[1] not in {"thread", "address"}:
    sys.exit(__doc__)
command, environment = sanitized_command(sys.argv[1], sys.argv[2:])
os.execvpe(command[0], command, environment)
