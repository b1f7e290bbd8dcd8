"""`status`: the checklist that the published recipes for auditing Kling end with, each line with its evidence.

Green stands only where evidence is there; what is not known is `unknown` or yellow. Each line that is not green names
the command that mends it. A quick look: nothing is verified unless a verdict is handed in.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, Final

from klingai_audit.config import Places, open_reader
from klingai_audit.errors import KlingAuditError
from klingai_audit.report.ask import Rows
from klingai_audit.report.evidence import gather
from klingai_audit.report.lines import LIGHTS, Light, Line, judge
from klingai_audit.trust.verdict import Verdict

__all__ = ["LIGHTS", "Light", "Line", "Status", "take_status"]

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Status:
    """The checklist at one moment: where the log is, its origin, signed entries, and the lines in their order."""

    log: str
    origin: str | None
    size: int
    at: dt.datetime
    lines: tuple[Line, ...]
    searched: int | None = field(default=None)
    """Newest entries in which content was looked for; None for all."""

    @property
    def counts(self) -> dict[str, int]:
        """State → number of lines, in the order green, yellow, red, unknown."""
        found = Counter(line.state for line in self.lines)
        return {light: found[light] for light in LIGHTS}

    @property
    def is_red(self) -> bool:
        """Tell whether any line is red."""
        return any(line.state == "red" for line in self.lines)

    def line(self, id: str) -> Line:
        """Return the line of that id. Raises: KeyError."""
        return {line.id: line for line in self.lines}[id]

    def to_json(self) -> dict[str, Any]:
        """Return what `status --json` prints."""
        return {
            "format": FORMAT,
            "log": self.log,
            "origin": self.origin,
            "size": self.size,
            "at": self.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "searched": self.searched,
            "counts": self.counts,
            "lines": [line.as_json() for line in self.lines],
        }


def take_status(
    places: Places,
    *,
    entries: int | None = None,
    verdict: Verdict | None = None,
    rows: Rows | None = None,
    now: dt.datetime | None = None,
) -> Status:
    """Look at a log and return its checklist; the log is read, nothing is written to it.

    `entries` limits the search for prompts, addresses and credentials to so many of the newest entries. `verdict` is
    one just made, if the log is to be verified now. `rows` asks an index that is open already; otherwise the one in
    the state folder is brought up to date. `now` is for tests. A log that cannot be read gives red and unknown lines.
    Raises: LogNotFound.
    """
    moment = now or dt.datetime.now(dt.UTC)
    reader = open_reader(places)
    trouble = ""
    with ExitStack() as stack:
        if rows is None:
            rows, trouble = _index(places, stack)
        found = gather(places, reader, rows, newest=entries, now=moment, verdict=verdict, trouble=trouble)
    origin = found.memory.origin or None
    searched = None if entries is None or entries >= found.size else entries
    return Status(places.log, origin, found.size, moment, judge(found), searched)


def _index(places: Places, stack: ExitStack) -> tuple[Rows | None, str]:
    from klingai_audit.index import Index

    try:
        return stack.enter_context(closing(Index.open(open_reader(places), places.state / "index"))).rows, ""
    except KlingAuditError as exc:
        return None, exc.message
    except OSError as exc:
        return None, f"the log cannot be read: {exc.strerror}"
