"""What a report is about: period, tree size, frameworks. Everything in a report follows from this and the log."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from klingai_audit.errors import UsageError
from klingai_audit.views.activity import MAX_DAYS
from klingai_audit.views.times import parse_instant

__all__ = ["FORMATS", "FRAMEWORKS", "Format", "People", "Scope", "instant", "make_scope", "read_frameworks"]

Format = Literal["html", "pdf", "json", "csv"]
FORMATS: Final[tuple[Format, ...]] = ("html", "pdf", "json", "csv")
"""What a report can be written as; the end of the file's name tells which."""

FRAMEWORKS: Final = ("pci", "nist", "soc2", "iso27001", "hipaa", "gdpr", "euai", "china", "sec", "asvs", "c2pa")
"""Frameworks that `--framework` takes, in the order of the report."""

People = Literal["mask", "pseudonym"]
"""How people are shown: masked ids, as far as the subject table can be read, or pseudonyms alone."""

_ALIASES: Final = {"iso": "iso27001", "ai-act": "euai", "eu-ai-act": "euai", "sec17a4": "sec", "owasp": "asvs"}
_SECOND: Final = dt.timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """Entries `[0, size)` with `since` <= timestamp < `until`, both in UTC; `days` of 24 hours lie between them.

    `frameworks` are those that were named, empty for all of them; `root` is the Merkle root of the first `size`
    entries, in hex. `high_risk` is the operator's declaration under the EU AI Act.
    """

    days: int
    since: dt.datetime
    until: dt.datetime
    size: int
    root: str
    origin: str
    people: People = "mask"
    frameworks: tuple[str, ...] = ()
    high_risk: bool = False

    @property
    def command(self) -> str:
        """The command line that makes this report again; the name of the file is the caller's."""
        words = ["klingai-audit", "report", "--days", str(self.days)]
        if self.frameworks:
            words += ["--framework", ",".join(self.frameworks)]
        if self.high_risk:
            words.append("--high-risk")
        if self.people == "pseudonym":
            words.append("--pseudonyms")
        words += ["--until", instant(self.until), "--at", str(self.size)]
        return shlex.join(words)


def instant(moment: dt.datetime) -> str:
    """Return a moment as RFC 3339 in UTC, with a fraction only where it has one."""
    text = moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    return text if "." not in text else text.rstrip("Z").rstrip("0") + "Z"


def make_scope(
    *,
    days: int,
    until: str | dt.datetime | dt.date | None,
    at: int | None,
    size: int,
    root_at: Callable[[int], bytes],
    origin: str,
    people: People,
    frameworks: Sequence[str] | None,
    high_risk: bool,
    now: dt.datetime,
) -> Scope:
    """Check what was asked for and make it definite.

    `until` None is the end of the present second; `at` None is `size`, the entries under the newest checkpoint.
    Raises: UsageError: days not in 1..36500, no time, a size that the log has not reached, an unknown framework.
    """
    if not 1 <= days <= MAX_DAYS:
        raise UsageError(f"--days is {days}.", do=f"Use a number from 1 to {MAX_DAYS}.")
    if at is not None and not 0 <= at <= size:
        raise UsageError(f"--at is {at:,}, but {size:,} entries of the log are signed.", do=f"Use 0 to {size}.")
    end = now.replace(microsecond=0) + _SECOND if until is None else parse_instant(until, edge="until", now=now)
    try:
        since = end - dt.timedelta(days=days)
    except OverflowError:
        raise UsageError("The period begins before the year 1.", do="Use a smaller --days.") from None
    covered = size if at is None else at
    return Scope(
        days=days,
        since=since,
        until=end,
        size=covered,
        root=root_at(covered).hex(),
        origin=origin,
        people=people,
        frameworks=read_frameworks(frameworks),
        high_risk=high_risk,
    )


def read_frameworks(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the named frameworks in the report's order, each once; items may hold several, separated by commas.

    Raises: UsageError for a name that there is not.
    """
    asked = [word for name in names or () for word in name.lower().replace(" ", "").split(",") if word]
    wanted = {_ALIASES.get(word, word) for word in asked}
    unknown = sorted(wanted - set(FRAMEWORKS))
    if unknown:
        raise UsageError(f"There is no framework {unknown[0]!r}.", do=f"Use some of: {', '.join(FRAMEWORKS)}.")
    return tuple(name for name in FRAMEWORKS if name in wanted)
