"""The command ``ctcx``, also as ``python -m ctcx``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say what has to be installed for it."""
    try:
        import rich  # noqa: F401 - both only to see whether they are there
        import typer  # noqa: F401
    except ImportError:
        print('the ctcx command needs typer and rich: pip install "ctcx[cli]"', file=sys.stderr)  # noqa: T201
        sys.exit(2)
    from ctcx._cli import run

    run()


if __name__ == "__main__":
    main()
