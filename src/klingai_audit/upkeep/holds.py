"""Legal holds: what may neither be purged nor erased, and until when. They live in the log, as entries.

A hold is set by an entry `legal_hold_set` and ends with an entry `legal_hold_released` of the same name. It covers a
range of entries, what one actor did, one generation, or whatever a query finds, entries of the future included.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from klingai_audit.errors import UsageError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.upkeep.registry import RegistryFile
from klingai_audit.views.entry import EntryView
from klingai_audit.views.query import Filter, matcher, query
from klingai_audit.views.times import format_instant, parse_instant

__all__ = ["Hold", "active_holds", "holds_in", "release_hold", "set_hold"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch
_TYPE_AT: Final = 118
_ABOUT_HOLDS: Final = (b'legal_hold_set"', b'legal_hold_released"')
_COVERS: Final[tuple[str, ...]] = ("range", "actor", "task", "correlations", "selection")
_QUERY: Final = ("team", "project", "event_type", "category", "outcome", "resource", "correlation", "model", "since",
                 "until")  # fmt: skip


@dataclass(frozen=True)
class Hold:
    """One hold that is in force: its name, the entry that set it and when, the reason, and what it covers.

    `covers` is one of `range` (first and last `seq`, inclusive), `actor` (a pseudonym), `task` (an id, with the
    correlation ids of its entries) and `selection` (the filter's members).
    """

    name: str
    seq: int
    since: dt.datetime
    reason: str | None
    covers: Mapping[str, Any]

    def test(self) -> Callable[[bytes], bool]:
        """Return what tells whether the hold covers an entry, by its stored bytes."""
        if "range" in self.covers:
            first, last = self.covers["range"]
            return lambda line: first <= EntryView(line).seq <= last
        if "actor" in self.covers:
            return _about(str(self.covers["actor"]))
        if "task" in self.covers:
            return _of_task(str(self.covers["task"]), frozenset(map(str, self.covers.get("correlations", ()))))
        return matcher(Filter(**{name: _names(value) for name, value in self.covers["selection"].items()}))

    def to_json(self) -> dict[str, Any]:
        """Return the members as JSON values."""
        return {
            "name": self.name,
            "seq": self.seq,
            "since": self.since.isoformat(),
            "reason": self.reason,
            "covers": dict(self.covers),
        }


def set_hold(
    audit: AuditLog,
    name: str,
    *,
    range: tuple[int, int] | None = None,
    actor: str | None = None,
    task: str | None = None,
    query: Filter | None = None,
    reason: str | None = None,
) -> Receipt:
    """Set a hold on exactly one of: entries `[range[0], range[1]]` inclusive, an actor, a task, what a query finds.

    `actor` is a raw id or a pseudonym; of `query` everything but text, cost, task, key and limits counts, relative
    times count from now. The entry is published on return, so nothing that it covers is purged or erased after that.
    Raises: UsageError (a name that is taken or no name, nothing or several things to cover, nobody by that id),
    AuditUnavailable.
    """
    if _NAME(name) is None:
        raise UsageError(f"{name!r} is no name of a hold.", do="Use letters, digits, '.', '_' and '-', at most 64.")
    # Nobody is erased between the look at who is meant and the entry.
    with RegistryFile(Path(audit.places.keys)).locked():
        if any(hold.name == name for hold in active_holds(audit)):
            raise UsageError(f"A hold {name} is in force already.", do="Use another name, or release it first.")
        given = [what for what in (range, actor, task, query) if what is not None]
        if len(given) != 1:
            raise UsageError("A hold covers exactly one thing.", do="Give one of: range, actor, task, query.")
        if range is not None:
            covers: dict[str, Any] = {"range": _checked_range(range)}
        elif actor is not None:
            covers = {"actor": _pseudonym(audit.subjects, actor)}
        elif task is not None:
            covers = _task(audit, task)
        else:
            covers = {"selection": _members(query or Filter(), audit.subjects)}
        return _write(audit, EventType.LEGAL_HOLD_SET, name, "set", covers | ({"reason": reason} if reason else {}))


def release_hold(audit: AuditLog, name: str, *, reason: str | None = None) -> Receipt:
    """End a hold; the entry is published on return. Raises: UsageError (no such hold), AuditUnavailable."""
    if all(hold.name != name for hold in active_holds(audit)):
        raise UsageError(f"No hold {name} is in force.", do="See which are: klingai-audit hold list")
    return _write(audit, EventType.LEGAL_HOLD_RELEASED, name, "release", {"reason": reason} if reason else {})


def _write(audit: AuditLog, kind: EventType, name: str, action: str, told: Mapping[str, Any]) -> Receipt:
    draft = Draft(event_type=kind, resource_type="hold", resource_id=name, action=action, metadata=told)
    return audit.record(draft).wait("published")


def active_holds(audit: AuditLog) -> list[Hold]:
    """Return the holds that are in force, in the order in which they were set."""
    found = audit.query(event_type=[EventType.LEGAL_HOLD_SET, EventType.LEGAL_HOLD_RELEASED])
    return holds_in(entry.raw for entry in found)


def holds_in(lines: Iterable[bytes]) -> list[Hold]:
    """Return the holds that are in force after these entries, which may hold others beside those about holds."""
    holds: dict[str, Hold] = {}
    for line in lines:
        if not line.startswith(_ABOUT_HOLDS, _TYPE_AT):
            continue
        entry = EntryView(line)
        name = entry.resource_id or ""
        if entry.event_type == EventType.LEGAL_HOLD_RELEASED:
            holds.pop(name, None)
            continue
        told = entry.metadata
        covers = {key: told[key] for key in _COVERS if key in told}
        if covers:
            holds[name] = Hold(name, entry.seq, entry.timestamp, told.get("reason"), covers)
    return list(holds.values())


def _checked_range(given: tuple[int, int]) -> list[int]:
    first, last = given
    if not 0 <= first <= last:
        raise UsageError(f"{first} to {last} is no range of entries.", do="Give the first and the last seq.")
    return [first, last]


def _pseudonym(subjects: SubjectTable, actor: str) -> str:
    """Return who is meant, for the entry must not name a person."""
    known = subjects.get(actor) or subjects.find(actor)
    if known is None:
        raise UsageError("Nobody by this id is in the log.", do="klingai-audit activity lists who is.")
    return known.pseudonym


def _task(audit: AuditLog, task: str) -> dict[str, Any]:
    """Return what names a generation: the task's id, and the correlation ids of its entries so far."""
    found = {entry.correlation_id for entry in audit.query(task=task) if entry.correlation_id is not None}
    if not found:
        raise UsageError("No entry is about this task.", do="klingai-audit query --task ID")
    return {"task": task, "correlations": sorted(found)}


def _members(wanted: Filter, subjects: SubjectTable) -> dict[str, Any]:
    """Return a filter as it can stand in an entry: people as pseudonyms, times absolute."""
    now = dt.datetime.now(dt.UTC)
    members: dict[str, Any] = {}
    for name in _QUERY:
        value = getattr(wanted, name)
        if value is None:
            continue
        if name in ("since", "until"):
            value = format_instant(parse_instant(value, edge="since" if name == "since" else "until", now=now)).decode()
        members[name] = value if isinstance(value, str) else sorted(value)
    if wanted.actor is not None:
        members["actor"] = _pseudonym(subjects, wanted.actor)
    unused = {"text", "cost", "task", "key", "limit"} & {name for name, value in vars(wanted).items() if value}
    if unused or not members:
        raise UsageError(
            "A hold by query needs members that entries keep for ever.",
            do=f"Use some of: actor, {', '.join(_QUERY)}; not {', '.join(sorted(unused)) or 'an empty query'}.",
        )
    query((), Filter(**members))
    return members


def _names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _about(pseudonym: str) -> Callable[[bytes], bool]:
    needle = pseudonym.encode()

    def test(line: bytes) -> bool:
        if needle not in line:
            return False
        entry = EntryView(line)
        return pseudonym in (entry.actor_id, entry.on_behalf_of, entry.resource_id)

    return test


def _of_task(task: str, correlations: frozenset[str]) -> Callable[[bytes], bool]:
    by_task = matcher(Filter(task=task))

    def test(line: bytes) -> bool:
        return by_task(line) or EntryView(line).correlation_id in correlations

    return test
