"""What a process that ends without closing its log says if that cannot be done for it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import pathlib, sys
from klingai_audit import AuditLog

place = pathlib.Path(sys.argv[1])
audit = AuditLog.open(place / "audit")
audit.log("x_note", "service", actor_type="service").wait()
if sys.argv[2] == "away":
    (place / "audit").rename(place / "elsewhere")
"""


def run_to_the_end(place, what: str) -> tuple[int, bool]:
    """Run the program; return its exit code and whether it said that the log could not be closed."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM, place, what], capture_output=True, text=True, check=False)
    return ended.returncode, "could not be closed" in ended.stderr


def test_an_open_log_is_closed_at_the_end(tmp_path):
    """Quietly where that works, and with one line where entries may be lost."""
    assert (0, False) == run_to_the_end(tmp_path, "here")
    assert b"log_closed" in b"".join(path.read_bytes() for path in (tmp_path / "audit").glob("*.jsonl"))
    assert (0, True) == run_to_the_end(tmp_path, "away")
