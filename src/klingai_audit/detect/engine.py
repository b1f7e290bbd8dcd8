"""Runs rules over the index and writes what they find, each finding once.

Built-in rules run in the same sandbox as a user's own: one SELECT, no files, bounded time and memory.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from klingai_audit.detect.rules import Rule
from klingai_audit.durable import OPS, PRIVATE_MODE
from klingai_audit.errors import KlingAuditError, StorageError, UsageError
from klingai_audit.event.record import Draft
from klingai_audit.event.types import EventType

if TYPE_CHECKING:
    from klingai_audit.index import Index, Table
    from klingai_audit.ledger.receipt import Receipt

__all__ = ["MAX_SEQS", "Found", "Recorder", "known_findings", "only_detector", "record_findings", "run_rules"]

LOCK_FILE: Final = "detect.lock"
MAX_SEQS: Final = 100
"""So many entries of the evidence are named in a `suspicious_activity` entry; `count` tells how many there are."""

_SINCE_EVER: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TEXT: Final = 200


@dataclass(frozen=True, slots=True)
class Found:
    """One finding of one rule. `key` is equal when the same thing is found again; `seqs` is the evidence, ascending."""

    rule: Rule
    key: str
    seqs: tuple[int, ...]
    actor_id: str | None = None
    team: str | None = None
    what: str = ""
    parameters: Mapping[str, int | float] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """32 hex digits of SHA-256 over the rule's id, a zero byte and the key: the name of this finding."""
        return hashlib.sha256(f"{self.rule.id}\0{self.key}".encode("utf-8", "replace")).hexdigest()[:32]

    def to_json(self) -> dict[str, Any]:
        """Return the finding as `detect --json` prints it; people are pseudonyms."""
        return {
            "rule": self.rule.id,
            "title": self.rule.title,
            "severity": self.rule.severity,
            "finding": self.id,
            "key": self.key,
            "what": self.what,
            "actor_id": self.actor_id,
            "team": self.team,
            "count": len(self.seqs),
            "seqs": list(self.seqs[:MAX_SEQS]),
        }


class Recorder(Protocol):
    """What findings are written through; `AuditLog` is one."""

    def record(self, draft: Draft) -> Receipt:
        """Append a draft."""
        ...


def run_rules(
    index: Index,
    rules: Iterable[Rule],
    *,
    since: dt.datetime = _SINCE_EVER,
    now: dt.datetime | None = None,
    settings: Mapping[str, Mapping[str, int | float]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Found, ...]:
    """Return what the rules find in the entries that the index covers, by rule, then by first evidence.

    `since` leaves older findings out; rules still compare with what was before. `settings` are parameters by rule id.
    `progress` gets rules done and in all. Raises: UsageError naming the rule whose SQL is wrong, gives other columns
    than a rule must give, or takes longer than the sandbox allows.
    """
    moment = now or dt.datetime.now(dt.UTC)
    chosen = tuple(rules)
    given = settings or {}
    unknown = given.keys() - {rule.id for rule in chosen}
    if unknown:
        raise UsageError(f"There is no rule {min(unknown)!r} to set a parameter of.")
    found: list[Found] = []
    for done, rule in enumerate(chosen):
        if progress is not None:
            progress(done, len(chosen))
        mine = {name: parameter.default for name, parameter in rule.parameters.items()} | dict(given.get(rule.id, {}))
        text = rule.query(since, moment, given.get(rule.id, {}))
        try:
            table = index.sql(text)
        except KlingAuditError as exc:
            raise UsageError(f"Rule {rule.id}: {exc.message}", do=exc.do) from exc
        found += sorted(_read(rule, table, mine), key=lambda one: one.seqs[:1])
    return tuple(found)


def known_findings(index: Index) -> frozenset[str]:
    """Return the `id` of every finding that the log holds already."""
    rows = index.rows(
        "SELECT DISTINCT json_extract_string(metadata, '$.finding') FROM events WHERE event_type = ?",
        (EventType.SUSPICIOUS_ACTIVITY.value,),
    )
    return frozenset(found for (found,) in rows if found is not None)


@contextmanager
def only_detector(state: Path) -> Iterator[None]:
    """Hold the right to write findings of the log with this state folder; waits for another process that has it.

    Raises: StorageError if the lock cannot be taken.
    """
    path = state / LOCK_FILE
    try:
        handle = OPS.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE_MODE)
    except OSError as exc:
        raise StorageError(f"{path} cannot be opened: {exc.strerror}.", do="Make the state folder writable.") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        OPS.close(handle)


def record_findings(audit: Recorder, found: Iterable[Found], size: int) -> list[Receipt]:
    """Append one `suspicious_activity` for each finding; durable on return. `size` is the tree that was looked at.

    The caller leaves out what `known_findings` holds, under `only_detector`.
    Raises: AuditUnavailable.
    """
    receipts = [audit.record(_draft(one, size)) for one in found]
    for receipt in receipts:
        receipt.wait("durable")
    return receipts


def _draft(one: Found, size: int) -> Draft:
    about = {"about": one.actor_id} if one.actor_id is not None else {}
    return Draft(
        event_type=EventType.SUSPICIOUS_ACTIVITY,
        resource_type="log",
        action="detect",
        team=one.team,
        metadata={
            "rule": one.rule.id,
            "rule_digest": one.rule.digest,
            "severity": one.rule.severity,
            "finding": one.id,
            "what": one.what,
            **about,
            "count": len(one.seqs),
            "seqs": list(one.seqs[:MAX_SEQS]),
            "tree_size": size,
            "parameters": dict(one.parameters),
        },
    )


def _read(rule: Rule, table: Table, parameters: Mapping[str, int | float]) -> Iterable[Found]:
    names = table.columns
    for needed in ("finding", "seqs"):
        if needed not in names:
            raise UsageError(f"Rule {rule.id}: its SELECT gives no column {needed!r}.", do="docs/detections.md")
    for row in table.rows:
        values = dict(zip(names, row, strict=True))
        yield Found(
            rule,
            _text(values["finding"]) or "-",
            _seqs(rule, values["seqs"]),
            _text(values.get("actor_id")),
            _text(values.get("team")),
            _text(values.get("what")) or "",
            parameters,
        )


def _seqs(rule: Rule, value: Any) -> tuple[int, ...]:
    given: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not given or not all(isinstance(seq, int) and not isinstance(seq, bool) for seq in given):
        raise UsageError(f"Rule {rule.id}: `seqs` is not a list of entries.", do="Use: list(seq ORDER BY seq) AS seqs")
    return tuple(sorted(set(given)))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:_TEXT]
