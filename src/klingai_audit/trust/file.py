"""One day file by itself: its form, its links and its order. Signatures and the tree need the whole log."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klingai_audit.errors import StorageError
from klingai_audit.ledger.line import seq_of
from klingai_audit.ledger.purged import parse_purged
from klingai_audit.ledger.sealed import unpacked_size
from klingai_audit.trust.assess import assess_file
from klingai_audit.trust.chunk import Purged, Read, Task, join_runs
from klingai_audit.trust.diagnose import Diagnosis, LineReader
from klingai_audit.trust.expected import Expected
from klingai_audit.trust.lines import examine
from klingai_audit.trust.look import settle_length
from klingai_audit.trust.place import DayFile, Scanned
from klingai_audit.trust.pool import PARALLEL_FROM, run_tasks
from klingai_audit.trust.reading import CHUNK_BYTES, Progress
from klingai_audit.trust.runs import Gap, order_runs
from klingai_audit.trust.verdict import Finding, Verdict, limited
from klingai_audit.trust.words import day_of, moved_findings
from klingai_audit.trust.worker import file_reader, run_task

__all__ = ["verify_file"]

_ANY_SIZE: Final = 1 << 62


def verify_file(
    source: str | os.PathLike[str] | bytes,
    *,
    name: str = "",
    processes: int | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Verify one day file (a path, or its bytes with the `name` they had) and return a verdict of scope `file`.

    Links and form are checked; that the entries were ever signed is not, nor who authorised what is purged. Of a
    sealed day the lines are checked, not the packed bytes. Raises: StorageError if the file cannot be read.
    """
    try:
        file, path = _open(source, name)
        scanned = _scan(file, processes or os.cpu_count() or 1, progress)
        purged: list[Purged] = []
        findings = list(_findings(scanned, file, purged))
    except OSError as exc:
        raise StorageError(f"The file cannot be read: {exc.strerror}.") from exc
    total = sum(part.report.lines for part in scanned.ranges) + (1 if file.torn else 0)
    bad = {finding.line for finding in findings if finding.line is not None}
    return Verdict(
        scope="file",
        log=path,
        origin=None,
        key=None,
        key_source="",
        size=0,
        total=total,
        valid=max(0, total - len(bad)),
        findings=(listed := limited(findings)),
        threats=assess_file(findings, total),
        purged=tuple(purged),
        unlisted=() if len(listed) == len(findings) else tuple(findings),
    )


def _open(source: str | os.PathLike[str] | bytes, name: str) -> tuple[DayFile, str]:
    if isinstance(source, bytes):
        data = source

        def read(begin: int, end: int) -> bytes:
            return data[begin:end]

        length, torn = settle_length(read, len(data))
        return DayFile(name, day_of(name), read, length, torn), name
    path = Path(source)
    reader: Read = file_reader(str(path), follow=True)
    length, torn = settle_length(reader, unpacked_size(path, follow=True))
    return DayFile(path.name, day_of(path.name), reader, length, torn, str(path)), str(path)


def _scan(file: DayFile, processes: int, progress: Progress | None) -> Scanned:
    tasks = [
        Task(number, file.path, file.day, at, min(at + CHUNK_BYTES, file.length), file.length, None, decode=True)
        for number, at in enumerate(range(0, file.length, CHUNK_BYTES))
    ]
    scanned = Scanned()
    scanned.list(file)
    nothing = file_reader(None)
    far = file.path is not None and file.length >= PARALLEL_FROM
    for report in run_tasks(tasks, lambda task: run_task(task, file.read, nothing), processes if far else 1):
        if report.error:
            raise OSError(5, report.error)
        scanned.add(file, report)
        if progress is not None:
            progress(tasks[report.number].end, file.length)
    return scanned


def _findings(scanned: Scanned, file: DayFile, purged: list[Purged]) -> Iterator[Finding]:
    """Find what is wrong; `purged` gets what is purged, unless no line tells which entries the file holds."""
    if not scanned.ranges and not file.torn:
        yield Finding("file_empty", f"{file.name} is empty.", file=file.name)
        return
    if scanned.ranges and not file.torn:
        first = scanned.ranges[0].report
        if first.base:
            scanned.base, scanned.leaf = first.base, first.first_prev
        if scanned.is_whole():
            purged += scanned.purged() if _base(scanned) is not None else ()
            return
    found = Diagnosis(_ANY_SIZE)
    reader = LineReader(found, Expected(_ANY_SIZE, file_reader(None), file_reader(None)))
    scanned.settle()
    reader.last.place = _base(scanned) or 0
    for part in scanned.ranges:
        for line in scanned.read(part):
            reader.take(line)
    for line in scanned.torn(file):
        reader.take(line)
    purged += join_runs(sorted(set(found.purged)))
    order = order_runs(found.items, None, None)
    yield from reader.findings()
    for gap in order.gaps:
        yield from _gap(gap)
    days = {file.name: file.day} if file.day else {name: min(seen) for name, seen in reader.days.items()}
    yield from moved_findings(order, days, reader.days if file.day else {})


def _base(scanned: Scanned) -> int | None:
    """The index of the file's first line, by the first one that states its own; None if none does."""
    lines = (line for part in scanned.ranges for line in scanned.read(part))
    for number, line in enumerate(lines):
        if parse_purged(line.data) is None:
            seq = seq_of(line.data)
            return None if seq is None or seq < number else seq - number
    return None


def _gap(gap: Gap) -> Iterator[Finding]:
    """Lines that are no entries, and indexes that are not there."""
    for line in gap.lines:
        _, faults = examine(line.data)
        kind, what = faults[0] if faults else ("entry_malformed", "The line is not an entry.")
        if not line.ended:
            kind, what = "torn_tail", f"The file ends with {line.size} bytes that are no whole line."
        yield Finding(kind, what, file=line.file, line=line.line)
    begin = gap.begin + len(gap.lines)
    if begin < gap.end:
        place = (None, None) if gap.after is None else (gap.after.file, gap.after.line)
        message = f"Nothing stands for {gap.end - begin} entries from {begin} on."
        yield Finding("entry_missing", message, begin, gap.end, *place)
