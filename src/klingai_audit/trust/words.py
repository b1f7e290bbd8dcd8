"""What the sequence of a damaged log shows, in words: one finding per stretch, at its narrowest place."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from klingai_audit.trust.lines import examine
from klingai_audit.trust.runs import Foreign, Gap, Order, Run
from klingai_audit.trust.verdict import Finding

if TYPE_CHECKING:
    from klingai_audit.trust.diagnose import Diagnosis
    from klingai_audit.trust.expected import Expected

__all__ = ["DAY_FILE", "day_of", "gap_findings", "moved_findings", "tail_findings"]

DAY_FILE = re.compile(r"audit-([0-9]{4}-[0-9]{2}-[0-9]{2})\.jsonl(?:\.gz)?")
"""The name of a day file."""


def day_of(name: str) -> str:
    """Return the day that a file's name states, empty if it states none that exists."""
    match = DAY_FILE.fullmatch(name)
    if match is None:
        return ""
    try:
        return dt.date.fromisoformat(match[1]).isoformat()
    except ValueError:
        return ""


def gap_findings(order: Order, expected: Expected, days: Mapping[str, str]) -> Iterator[Finding]:
    """Name changed, inserted and missing entries."""
    signed_files = {run.file for run in (*order.kept, *order.moved, *order.copies)}
    added: dict[str, int] = {}
    for gap in order.gaps:
        changed = min(gap.end - gap.begin, len(gap.lines))
        yield from _changed(gap, gap.lines[:changed])
        yield from _inserted(gap, [line for line in gap.lines[changed:] if line.file in signed_files])
        for line in gap.lines[changed:]:
            if line.file not in signed_files:
                added[line.file] = added.get(line.file, 0) + 1
        yield from _missing(gap, changed, expected)
    for file, count in added.items():
        if days.get(file):
            message = f"{file} holds {count} line(s), and none of them was ever signed."
            yield Finding("file_added", message, file=file, line=1)


def _span(begin: int, end: int) -> str:
    return f"entry {begin}" if end - begin == 1 else f"entries {begin} to {end - 1}"


def _about(line: Foreign) -> str:
    """The first fault of the line's form, if it has one."""
    _, faults = examine(line.data)
    return f" {faults[0][1]}" if faults else ""


def _changed(gap: Gap, lines: list[Foreign]) -> Iterator[Finding]:
    if not lines:
        return
    begin, end = gap.begin, gap.begin + len(lines)
    if len(lines) > 1 and all(line.linked for line in lines[1:]):
        message = (
            f"Entry {begin} is not the one that was signed, and the links of {_span(begin + 1, end)} were computed "
            f"anew to fit it."
        )
    else:
        message = f"{_span(begin, end).capitalize()} at this place: not the bytes that were signed.{_about(lines[0])}"
    yield Finding("entry_changed", message, begin, end, lines[0].file, lines[0].line)


def _inserted(gap: Gap, lines: list[Foreign]) -> Iterator[Finding]:
    before = f"after entry {gap.end - 1}" if gap.end else "before entry 0"
    numbered = enumerate(lines)
    for (file, _, about), together in groupby(
        numbered, lambda item: (item[1].file, item[1].line - item[0], _about(item[1]))
    ):
        first = (same := [line for _, line in together])[0]
        what = "A line stands" if len(same) == 1 else f"{len(same)} lines stand"
        verb = "was" if len(same) == 1 else "were"
        message = f"{what} {before} that {verb} never signed.{about}"
        yield Finding("entry_inserted", message, file=file, line=first.line)


def _missing(gap: Gap, changed: int, expected: Expected) -> Iterator[Finding]:
    begin, end = gap.begin + changed, gap.end
    if begin == end:
        return
    span = _span(begin, end)
    after, before = gap.after, gap.before
    if begin == 0:
        place = (after.file, after.line) if after else (None, None)
        yield Finding("head_cut", f"The log does not begin with entry 0: {span} are gone.", begin, end, *place)
    elif end == expected.size and after is None:
        place = (before.file, before.line + before.count) if before else (None, None)
        message = f"The log ends before its signed size {expected.size}: {span} are gone."
        yield Finding("tail_cut", message, begin, end, *place)
    elif before is not None and after is not None and after.line == 1 and (days := _days_between(before, after)) > 0:
        between = f"between {before.file} and {after.file}: the file(s) of up to {days} day(s) between them"
        message = f"{span.capitalize()} are gone {between} are missing."
        yield Finding("file_missing", message, begin, end, after.file, after.line)
    else:
        place = (after.file, after.line) if after else (None, None)
        verb = "is gone; it was" if end - begin == 1 else "are gone; they were"
        message = f"{span.capitalize()} {verb} signed."
        yield Finding("entry_missing", message, begin, end, *place)


def _days_between(before: Run, after: Run) -> int:
    """Days between the days of two files, 0 if there are none or a file states no day."""
    first, last = day_of(before.file), day_of(after.file)
    if not first or not last:
        return 0
    return (dt.date.fromisoformat(last) - dt.date.fromisoformat(first)).days - 1


def moved_findings(order: Order, days: Mapping[str, str], logged: Mapping[str, set[str]]) -> Iterator[Finding]:
    """Name entries that stand at another place, copies, and files under another name."""
    renamed = {name: seen for name, seen in logged.items() if days.get(name) not in seen}
    for name, seen in renamed.items():
        runs = [run for run in (*order.kept, *order.moved) if run.file == name]
        if not runs:
            continue
        begin, end = min(run.seq for run in runs), max(run.end for run in runs)
        verb = "belongs" if end - begin == 1 else "belong"
        message = f"{name} holds {_span(begin, end)}, which {verb} in audit-{min(seen)}.jsonl."
        yield Finding("file_renamed", message, begin, end, name, runs[0].line)
    for name, seen in logged.items():
        if name not in renamed:
            for day in sorted(seen - {days.get(name)}):
                run = next((run for run in (*order.kept, *order.moved) if run.file == name), None)
                message = f"{name} holds entries that were logged on {day}."
                yield Finding("wrong_day", message, None if run is None else run.seq, file=name)
    for run in order.moved:
        if run.file not in renamed:
            verb = "stands" if run.count == 1 else "stand"
            message = f"{_span(run.seq, run.end).capitalize()} {verb} at another place than before."
            yield Finding("entry_moved", message, run.seq, run.end, run.file, run.line)
    for run in order.copies:
        verb = "stands" if run.count == 1 else "stand"
        message = f"{_span(run.seq, run.end).capitalize()} {verb} here a second time."
        yield Finding("entry_duplicated", message, run.seq, run.end, run.file, run.line)


def tail_findings(found: Diagnosis) -> Iterator[Finding]:
    """Name what follows the last signed entry."""
    whole = [line for line in found.tail if line.ended]
    if whole:
        first = whole[0]
        linked = "They link to the log" if all(line.linked for line in whole) else "They do not even link to the log"
        message = f"{len(whole)} line(s) follow that no checkpoint covers. {linked}; nothing proves who wrote them."
        yield Finding("unsigned_tail", message, found.size, found.size + len(whole), first.file, first.line)
    for line in found.tail:
        if not line.ended:
            message = f"The log ends with {line.size} bytes that are no whole line."
            yield Finding("torn_tail", message, file=line.file, line=line.line)
