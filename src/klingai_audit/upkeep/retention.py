"""Retention: what is due by policy, and purging it so that every proof still holds.

An entry is due when its day is older than the maximum of its type; entries about the log itself and entries under a
hold are never purged. Days are sealed first. The order of `apply`: an entry `retention_applied` lists what goes and is
published; then a day is made anew with purged lines; then a second entry names the digest of the sealed file; then the
file takes its place. Stopped anywhere, the next run completes it. See docs/format.md, sections 1 and 2.3.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from klingai_audit.errors import AuditUnavailable, VerificationError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType, category_of
from klingai_audit.ledger.line import PURGED_PREFIX, event_type_of
from klingai_audit.ledger.purged import line_hash, purged_line
from klingai_audit.ledger.reader import LogReader
from klingai_audit.ledger.store import PreparedDay, StoredDay
from klingai_audit.log import AuditLog
from klingai_audit.privacy.policy import Policy
from klingai_audit.upkeep.approval_file import purge_target
from klingai_audit.upkeep.approvals import require_approval
from klingai_audit.upkeep.archives import ARCHIVED, Archive, archives_in, locked_until
from klingai_audit.upkeep.discarding import SealedContent
from klingai_audit.upkeep.holds import Hold, active_holds, holds_in

__all__ = [
    "Applied",
    "Archive",
    "Authorised",
    "DayPlan",
    "Plan",
    "PlanRow",
    "apply_retention",
    "authorised_in",
    "plan_retention",
]

MAX_RANGES: Final = 1500
"""Ranges that one `retention_applied` entry lists at most, so that it stays below the size of an entry."""

_TYPE_AT: Final = 118
_ABOUT: Final = (b'legal_hold_set"', b'legal_hold_released"', b'retention_applied"', ARCHIVED)
_SCRATCH: Final = "sealing"


@dataclass(frozen=True)
class PlanRow:
    """Entries of one type in one day: how many there are, fall due, are held or locked, and until when they stay.

    `keep_until` is the first day on which they are due, None for ever; `why` names the rules.
    """

    event_type: str
    entries: int
    due: int
    held: int
    keep_until: dt.date | None
    why: str
    locked: int = 0


@dataclass(frozen=True)
class DayPlan:
    """What is to happen to one day: whether it is sealed now (`seal`), and the entries to purge, by `seq`.

    `locked` is until when its store lets nobody purge those that are due, None if it does.
    """

    day: StoredDay
    seal: bool
    due: tuple[int, ...]
    purged: int
    rows: tuple[PlanRow, ...]
    locked: dt.datetime | None = None


@dataclass(frozen=True)
class Plan:
    """What `apply` would do today: every day but the newest, oldest first, and the holds that stand in its way.

    `archives` are copies under lock that no purge reaches.
    """

    today: dt.date
    days: tuple[DayPlan, ...]
    holds: tuple[Hold, ...]
    archives: tuple[Archive, ...] = ()

    @property
    def due(self) -> int:
        """Entries that would be purged."""
        return sum(len(day.due) for day in self.days)

    @property
    def target(self) -> str:
        """What a second person approves: these entries and no others (`approval_file.purge_target`)."""
        return purge_target(seq for day in self.days for seq in day.due)

    @property
    def digest(self) -> str:
        """The last part of `target`: 64 hex digits."""
        return self.target.rpartition(" ")[2]

    @property
    def to_seal(self) -> int:
        """Days that would be sealed."""
        return sum(day.seal and not day.day.sealed for day in self.days)


@dataclass
class Applied:
    """What one run did: purged entries, sealed or resealed days, and its entries that authorised a purge."""

    purged: int = 0
    sealed: list[str] = field(default_factory=list)
    authorised_by: list[int] = field(default_factory=list)


class Authorised:
    """What `retention_applied` entries list: inclusive ranges of `seq`, each with the entry that authorises it."""

    def __init__(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        self._ranges: list[tuple[int, int, int]] = []
        for first, last, by in sorted(ranges):  # what a stopped run listed is listed again
            begin = max(first, self._ranges[-1][1] + 1) if self._ranges else first
            if begin <= last:
                self._ranges.append((begin, last, by))
        self._firsts = [first for first, _, _ in self._ranges]
        self._before = [0, *itertools.accumulate(last + 1 - first for first, last, _ in self._ranges)]

    def by(self, seq: int) -> int | None:
        """Return the entry that authorised the purge of entry `seq`, None if none did."""
        at = bisect_right(self._firsts, seq) - 1
        if at < 0:
            return None
        _, last, by = self._ranges[at]
        return by if seq <= last else None

    def count(self, begin: int, end: int) -> int:
        """Return how many of the entries `[begin, end)` are authorised."""
        return self._below(end) - self._below(begin)

    def _below(self, seq: int) -> int:
        at = bisect_right(self._firsts, seq - 1)
        return self._before[at] - max(0, self._ranges[at - 1][1] + 1 - seq) if at else 0


def authorised_in(lines: Iterable[bytes]) -> Authorised:
    """Return what these entries authorise; others among them are passed over."""
    from klingai_audit.views.entry import EntryView

    found = []
    for line in lines:
        if line.startswith(_ABOUT[2], _TYPE_AT):
            entry = EntryView(line)
            if entry.metadata.get("action") == "purge":
                found += [(int(first), int(last), entry.seq) for first, last in entry.metadata.get("ranges", ())]
    return Authorised(found)


def plan_retention(
    reader: LogReader, policy: Policy, today: dt.date, *, progress: Callable[[int, int], None] | None = None
) -> Plan:
    """Say what `apply` would do on `today` (UTC), and why. Writes nothing, locks nothing.

    `progress` gets entries read and the number of all. Raises: StorageError, Malformed.
    """
    size = reader.size
    about = [line for line in reader.entries(0, size) if line.startswith(_ABOUT, _TYPE_AT)]
    holds = holds_in(about)
    tests = [hold.test() for hold in holds]
    days = []
    for day in reader.store.old_days():
        if day.end <= size:
            days.append(_plan_day(reader, policy, day, today, tests))
        if progress is not None:
            progress(day.end, size)
    return Plan(today, tuple(days), tuple(holds), archives_in(about, today))


def _plan_day(
    reader: LogReader, policy: Policy, day: StoredDay, today: dt.date, tests: Sequence[Callable[[bytes], bool]]
) -> DayPlan:
    entries, due, held = Counter[str](), Counter[str](), Counter[str]()
    going: list[int] = []
    purged = 0
    limits: dict[str, dt.date | None] = {}
    for seq, line in enumerate(reader.lines(day.begin, day.end), day.begin):
        if line.startswith(PURGED_PREFIX):
            purged += 1
            continue
        kind = event_type_of(line)
        entries[kind] += 1
        if kind not in limits:
            limits[kind] = _due_on(policy, kind, day.day)
        limit = limits[kind]
        if limit is None or today < limit:
            continue
        if any(test(line) for test in tests):
            held[kind] += 1
        else:
            due[kind] += 1
            going.append(seq)
    locked = locked_until(reader.store, day, today) if going else None
    due_now = Counter[str]() if locked else due
    rows = tuple(
        PlanRow(
            kind, count, due_now[kind], held[kind], limits[kind], policy.retention.period(kind).why,
            due[kind] - due_now[kind],
        )
        for kind, count in sorted(entries.items())
    )  # fmt: skip
    going = [] if locked else going
    after = policy.retention.sealed_after
    seal = bool(going) or (after is not None and (today - day.day).days >= after)
    return DayPlan(day, seal, tuple(going), purged, rows, locked)


def _due_on(policy: Policy, kind: str, day: dt.date) -> dt.date | None:
    """The first day on which entries of a type that were logged on `day` are due."""
    if category_of(kind) == "log":
        return None
    most = policy.retention.period(kind).maximum
    return None if most is None else day + dt.timedelta(days=most + 1)


def apply_retention(
    audit: AuditLog,
    *,
    today: dt.date | None = None,
    approval: Path | Sequence[Path] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Applied:
    """Seal old days and purge what is due; complete what an earlier run began. Durable on return.

    The log is verified first. Where policy wants a second person (`access.two_person`), `approval` is the file that
    approves what is due on `today`. `progress` gets days done and the number of all. One process at a time.
    Raises: VerificationError (the log is broken: nothing is touched), AccessDenied, AuditUnavailable, StorageError.
    """
    run = _Run(audit, today or dt.datetime.now(dt.UTC).date(), progress, approval)
    verdict = audit.verify()
    if not verdict.integrity_ok:
        raise VerificationError(
            "Nothing was purged: the log does not verify.", do="Preserve the files as they are: klingai-audit verify"
        )
    return run.all()


class _Run:
    """One run of `apply_retention`."""

    def __init__(
        self,
        audit: AuditLog,
        today: dt.date,
        progress: Callable[[int, int], None] | None,
        approval: Path | Sequence[Path] | None,
    ) -> None:
        self._audit = audit
        self._approval = approval
        self._today = today
        self._progress = progress
        self.done = Applied()
        self._holds: list[Callable[[bytes], bool]] = []
        self._seals: dict[str, Any] = {}
        self._vault = SealedContent(audit)

    def all(self) -> Applied:
        audit = self._audit
        audit.flush("published")
        plan = plan_retention(audit.reader, audit.policy, self._today)
        with audit.reader.store.keeper(audit.places.state / _SCRATCH) as keeper:
            self._authorise(plan)
            acts = [line for line in audit.reader.entries() if line.startswith(_ABOUT[2], _TYPE_AT)]
            allowed = authorised_in(acts)
            self._seals = _newest_seals(acts)
            todo = [day for day in plan.days if self._is_open(day, allowed)]
            for number, day in enumerate(todo):
                prepared = keeper.prepare(day.day, self._change(allowed))
                self._announce(prepared)
                self._vault.discard()
                keeper.put(prepared)
                if prepared.sha256 is not None:
                    self.done.sealed.append(prepared.name)
                if self._progress is not None:
                    self._progress(number + 1, len(todo))
        audit.flush("published")
        return self.done

    def _authorise(self, plan: Plan) -> None:
        """Write the entries that list what goes; published on return. Then read anew what is under hold."""
        if plan.due:
            granted = require_approval(self._audit, "purge", plan.target, self._approval)
            for part in _parts(_ranges([seq for day in plan.days for seq in day.due])):
                self.done.authorised_by.append(self._list(part, granted))
        self._holds = [hold.test() for hold in active_holds(self._audit)]

    def _list(self, ranges: list[tuple[int, int]], granted: Mapping[str, Any]) -> int:
        reader, kinds, leaves = self._audit.reader, Counter[str](), hashlib.sha256()
        at = ranges[0][0]
        lines = reader.lines(at, ranges[-1][1] + 1)
        for first, last in ranges:
            for line in itertools.islice(lines, first - at, last + 1 - at):
                kinds[event_type_of(line)] += 1
                leaves.update(line_hash(line))
            at = last + 1
        told = {
            "action": "purge",
            "entries": kinds.total(),
            "ranges": [list(one) for one in ranges],
            "leaves": leaves.hexdigest(),
            "types": dict(sorted(kinds.items())),
            "policy": self._audit.policy.digest,
            **granted,
        }
        event = Draft(event_type=EventType.RETENTION_APPLIED, resource_type="log", action="purge", metadata=told)
        seq = self._audit.record(event).wait("published").seq
        if seq is None:
            raise AuditUnavailable("It is not known which entry authorises the purge.")
        return seq

    def _is_open(self, day: DayPlan, allowed: Authorised) -> bool:
        """Tell whether there is anything to do to a day: not sealed yet, or lines that are listed and still whole."""
        if day.seal and not day.day.sealed:
            return True
        if allowed.count(day.day.begin, day.day.end) == day.purged:
            return False  # the log verified: what is purged is what was listed
        lines = enumerate(self._audit.reader.lines(day.day.begin, day.day.end), day.day.begin)
        return any(allowed.by(seq) is not None and self._goes(line) for seq, line in lines)

    def _change(self, allowed: Authorised) -> Callable[[int, bytes], bytes]:
        def change(seq: int, line: bytes) -> bytes:
            by = allowed.by(seq)
            if by is None or not self._goes(line):
                return line
            self.done.purged += 1
            self._vault.note(line)
            return purged_line(line_hash(line), by)

        return change

    def _goes(self, line: bytes) -> bool:
        """Tell whether a line that is listed is still to be purged: a hold that was set since keeps it."""
        return not line.startswith(PURGED_PREFIX) and not any(test(line) for test in self._holds)

    def _announce(self, prepared: PreparedDay) -> None:
        """Write the entry that names the sealed file's digest, unless the newest of its name does; published."""
        if prepared.sha256 is None:
            return
        told: dict[str, Any] = {"action": "seal", "file": prepared.name, "sha256": prepared.sha256}
        if self._seals.get(prepared.name) == prepared.sha256:
            return
        told |= {"bytes": prepared.size, "first": prepared.day.begin, "last": prepared.day.end - 1}
        event = Draft(event_type=EventType.RETENTION_APPLIED, resource_type="log", action="seal", metadata=told)
        self._audit.record(event).wait("published")


def _newest_seals(lines: Iterable[bytes]) -> dict[str, Any]:
    """Return the digest that the newest entry among these states for each sealed file."""
    from klingai_audit.views.entry import EntryView

    told = (EntryView(line).metadata for line in lines)
    return {str(one.get("file")): one.get("sha256") for one in told if one.get("action") == "seal"}


def _ranges(seqs: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield ascending numbers as inclusive ranges."""
    first = last = -2
    for seq in seqs:
        if seq != last + 1:
            if first >= 0:
                yield first, last
            first = seq
        last = seq
    if first >= 0:
        yield first, last


def _parts(ranges: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    part: list[tuple[int, int]] = []
    for one in ranges:
        part.append(one)
        if len(part) == MAX_RANGES:
            yield part
            part = []
    if part:
        yield part
