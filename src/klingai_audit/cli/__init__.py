"""The command line: thin commands that parse, call one library function and print."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `klingai-audit` with this process's arguments and exit with its code."""
    from klingai_audit.cli.run import run

    sys.exit(run(sys.argv[1:], last=True))
