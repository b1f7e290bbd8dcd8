"""Entries as the task table takes them in: which of them tell of a task, and what they change in its rows."""

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from klingai_audit.event.record import format_time, is_end_id, is_event_id, parse_time
from klingai_audit.event.types import EventType
from klingai_audit.kling.rows import MEDIA, RESOURCES

__all__ = ["ENDED", "EXTERNAL", "Told", "keep_delivery", "read_note", "read_told", "take"]

EXTERNAL: Final = "external:"
"""Before the id that a caller gave an order, where it is a key: its row names the order's correlation."""

ENDED: Final = "end:"
"""Before a task's id: the polls that its end tells of, whichever process's end is the one that the log keeps."""

_TYPE_AT: Final = 118
_HEADER: Final = b'{"schema":1,"event_id":"'

_INTENTS: Final = frozenset({EventType.PROMPT_SUBMITTED.value, EventType.TASK_SUBMITTED.value})
_STARTS: Final = frozenset({EventType.TASK_SUBMITTED.value, *(f"{medium}_generation_started" for medium in MEDIA)})
_ENDS: Final = frozenset(
    {
        EventType.TASK_COMPLETED.value, EventType.RESOURCE_CREATED.value,
        *(f"{medium}_generation_{end}" for medium in MEDIA for end in ("completed", "failed")),
    }
)  # fmt: skip
_REFUSALS: Final = frozenset(
    {EventType.RATE_LIMIT_EXCEEDED.value, EventType.POLICY_VIOLATION.value, EventType.ACCESS_DENIED.value}
)
_TOLD: Final = frozenset(
    name.encode() for name in (*_INTENTS, *_STARTS, *_ENDS, *_REFUSALS, EventType.TASK_STATUS_CHANGED.value)
)
_PEOPLE: Final = ("actor_id", "actor_type", "on_behalf_of", "team", "project")
_NOTED: Final = ("generation", "model")


class Told(msgspec.Struct):
    """The members of an entry that tell of a task."""

    event_id: str
    timestamp: str
    event_type: str
    actor_id: str
    actor_type: str
    outcome: str
    on_behalf_of: str | None = None
    team: str | None = None
    project: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    action: str | None = None
    correlation_id: str | None = None
    metadata: dict[str, Any] = {}

    @property
    def who(self) -> str:
        """Who the entry names, as JSON."""
        people = {name: value for name in _PEOPLE if (value := getattr(self, name)) is not None}
        return msgspec.json.encode(people).decode()

    @property
    def note(self) -> dict[str, str]:
        """What is to be known of a task, as far as this entry tells."""
        note = {name: value for name in _NOTED if isinstance(value := self.metadata.get(name), str)}
        if self.resource_type in MEDIA | RESOURCES:
            note["product"] = str(self.resource_type)
        return note


_decode: Final = msgspec.json.Decoder(Told).decode


def read_told(lines: Iterable[bytes]) -> Iterator[Told]:
    """The entries that tell of tasks; the type is looked at where it stands, the rest is read of few."""
    for line in lines:
        if line[_TYPE_AT : line.find(b'"', _TYPE_AT)] in _TOLD and line.startswith(_HEADER):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                yield _decode(line)


def take(database: sqlite3.Connection, entry: Told) -> None:
    """Take in one entry. Entries may come twice and out of order: what is newer stays, an end stays."""
    metadata, correlation = entry.metadata, entry.correlation_id or entry.event_id
    if metadata.get("phase") == "intent":
        deadline = metadata.get("deadline_s")
        seconds = deadline if isinstance(deadline, int) and 0 < deadline < 10**7 else 0
        due = format_time(parse_time(entry.timestamp) + dt.timedelta(seconds=seconds))
        note = {**entry.note, **({"action": entry.action} if entry.action else {})}
        waiting = "named" if isinstance(metadata.get("external_task_id"), str) else "open"
        database.execute(
            "INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?)", (correlation, entry.who, _note(note), waiting, due)
        )
        _name_order(database, entry, correlation, due, lost=False)
        return
    if metadata.get("claim") is True:
        return
    if isinstance(metadata.get("delivery"), str) and metadata.get("signature") == "verified":
        keep_delivery(database, metadata["delivery"], entry.timestamp)
    task = metadata.get("task_id") if entry.event_type == EventType.RESOURCE_CREATED else entry.resource_id
    opens = "intent" in metadata and entry.event_type in _STARTS
    if "intent" in metadata or "found_by" in metadata:
        _close_order(database, entry, correlation, found=isinstance(task, str))
    ended = is_end_id(entry.event_id)
    status = metadata.get("status")
    told = entry.event_type in _STARTS or entry.event_type == EventType.TASK_STATUS_CHANGED or ended
    if not isinstance(task, str) or not told:
        return
    if ended:
        database.execute("DELETE FROM polls WHERE task = ?", (ENDED + task,))
    state = ("succeeded" if entry.outcome == "success" else "failed") if ended else status
    _put_task(database, entry, task, correlation, state if isinstance(state, str) else "submitted", opens=opens)


def keep_delivery(database: sqlite3.Connection, delivery: str, at: str) -> None:
    """Remember that a callback was handled, if nobody has yet."""
    database.execute("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", (delivery, at))


def _close_order(database: sqlite3.Connection, entry: Told, correlation: str, *, found: bool) -> None:
    if entry.outcome == "unknown" and not found:
        database.execute("UPDATE orders SET state = 'lost' WHERE correlation = ?", (correlation,))
        _name_order(database, entry, correlation, entry.timestamp, lost=True)
    elif found:
        database.execute("UPDATE orders SET state = 'closed' WHERE correlation = ?", (correlation,))
    else:  # a refusal says nothing about an earlier sending that nobody answered
        database.execute(
            "UPDATE orders SET state = 'closed' WHERE correlation = ? AND state IN ('open', 'named')", (correlation,)
        )


def _name_order(database: sqlite3.Connection, entry: Told, correlation: str, due: str, *, lost: bool) -> None:
    """Let an order be found by the id that its caller gave it: the first of that id, or else the last that was lost."""
    external = entry.metadata.get("external_task_id")
    if not isinstance(external, str) or is_event_id(external):
        return
    name = EXTERNAL + external
    if lost:
        database.execute("DELETE FROM orders WHERE correlation = ?", (name,))
    row = (name, "{}", _note({"correlation": correlation}), due)
    database.execute("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, 'name', ?)", row)


def _put_task(
    database: sqlite3.Connection, entry: Told, task: str, correlation: str, state: str, *, opens: bool
) -> None:
    order = database.execute("SELECT who, note FROM orders WHERE correlation = ?", (correlation,)).fetchone()
    held = database.execute(
        "SELECT correlation, who, state, final, note, at FROM tasks WHERE task = ?", (task,)
    ).fetchone()
    final = is_end_id(entry.event_id)
    who = order[0] if order else entry.who
    note = {**entry.note, **(read_note(order[1]) if order else {})}
    at = entry.timestamp
    if held is not None:
        note = {**note, **read_note(held[4])}
        if not opens:
            correlation, who = held[0], held[1]
        if held[3] or (not final and held[5] > at):  # an end stays, and so does what is newer
            state, final, at = held[2], bool(held[3]), held[5]
    database.execute(
        "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?)",
        (task, correlation, who, state, int(final), _note(note), at),
    )


def _note(note: dict[str, str]) -> str:
    return msgspec.json.encode(note).decode()


def read_note(text: str) -> dict[str, str]:
    """What a row says is to be known of its task or order."""
    note: dict[str, str] = msgspec.json.decode(text)
    return note
