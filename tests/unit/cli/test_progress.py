"""The bar on standard error: for a person at a terminal, and for nobody else."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session


def watching(*, terminal=True, as_json=False):
    """Return a session whose remarks go to a screen that can be read, and that screen."""
    screen = io.StringIO()
    session = Session(as_json=as_json)
    session.__dict__["remarks"] = Console(file=screen, force_terminal=terminal, width=80)
    return session, screen


@pytest.mark.parametrize("terminal,as_json", [(False, False), (True, True)])
def test_nobody_looks_on(terminal, as_json):
    """Piped output and output for programs have no bar."""
    session, screen = watching(terminal=terminal, as_json=as_json)
    with progress_bar(session, "indexing", "entries") as told:
        assert told is None
    assert screen.getvalue() == ""


def test_nothing_to_tell():
    """What is done at once draws nothing."""
    session, screen = watching()
    with progress_bar(session, "indexing", "entries"):
        pass
    assert screen.getvalue() == ""


@pytest.mark.parametrize(
    "unit,shown", [("entries", "700/1,000 entries"), ("bytes", "0.7/1.0 kB"), ("rules", "700/1,000 rules")]
)
def test_a_bar_is_drawn(unit, shown):
    """A person sees what is done, how far it is, and the bar is gone at the end."""
    session, screen = watching()
    with progress_bar(session, "indexing", unit) as told:
        told(100, 1000)
        told(700, 1000)
    text = screen.getvalue()
    assert ["indexing" in text, shown in text, text.endswith("\x1b[2K")] == [True, True, True]


def test_the_time_that_is_left_fits_on_the_screen():
    """Ten million entries on a screen of eighty columns: count, rate and time left are all there."""
    session, screen = watching()
    with progress_bar(session, "indexing", "entries") as told:
        for done in range(1_000_000, 9_000_000, 1_000_000):
            told(done, 10_000_000)
            time.sleep(0.002)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\x1b\[[0-9;]*[A-HJKlh]", "\r", screen.getvalue()))
    last = text.rstrip("\r\n ").rpartition("\r")[2]
    assert re.search(r"8,000,000/10,000,000 entries [0-9,]+/s [0-9]:[0-9]{2}:[0-9]{2}$", last)
