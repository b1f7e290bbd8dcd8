"""Tries a rule on the made-up events that it brings, in a log in memory, and counts what it finds."""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from klingai_audit.detect.engine import run_rules
from klingai_audit.detect.rules import Rule, Trial
from klingai_audit.durable import FileOps
from klingai_audit.errors import UsageError
from klingai_audit.event.own import own_event
from klingai_audit.event.record import Draft, new_event_id
from klingai_audit.event.types import EVENT_TYPES, canonical_type
from klingai_audit.index import Index
from klingai_audit.log import AuditLog

__all__ = ["MEMBERS", "try_rule"]

MEMBERS: Final = {
    "type": "event type",
    "actor": "raw id of who acts",
    "actor_type": "user, admin, service or system",
    "team": "team",
    "outcome": "outcome",
    "ip": "address",
    "key": "fingerprint of the credential (16 hex digits)",
    "user": "raw id of the user that the event is about",
    "units": "video units charged, as text",
    "intent": "a name: the event is an intent, answered by the event that says `answers` with this name",
    "answers": "name of the intent that the event answers",
    "metadata": "further metadata",
    "repeat": "how many such events (1)",
    "every_s": "seconds between them (1)",
    "then_s": "seconds after the last of them (1)",
}
"""What an event of a trial may state."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND_NS: Final = 10**9


class _Clock:
    """A clock that moves only when told to."""

    def __init__(self, start: dt.datetime) -> None:
        self._now = (start - _EPOCH) // dt.timedelta(microseconds=1) * 1000

    def now_ns(self) -> int:
        return self._now

    def boot_ns(self) -> int:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += round(seconds * _SECOND_NS)

    @property
    def now(self) -> dt.datetime:
        return _EPOCH + dt.timedelta(microseconds=self._now // 1000)


class _Hasty(FileOps):
    """What a trial writes need not outlive the machine."""

    def sync(self, fd: int) -> None:
        """Do nothing."""


def try_rule(rule: Rule, trial: Trial) -> int:
    """Return how many findings `rule` makes of the events of `trial`, with its default parameters.

    Raises: UsageError for a trial that is none and for SQL that fails.
    """
    try:
        clock = _Clock(dt.datetime.fromisoformat(trial.start).astimezone(dt.UTC))
    except ValueError as exc:
        raise UsageError(f"Rule {rule.id}, test {trial.name!r}: `start` is no time.") from exc
    ops = _Hasty()
    with tempfile.TemporaryDirectory(prefix="klingai-audit-") as folder:
        place = Path(folder)
        log = AuditLog.open("memory:", keys=place / "keys", state=place / "state", clock=clock, ops=ops)
        with log as audit:
            names: dict[str, str] = {}
            for told in trial.events:
                _play(audit, clock, rule, told, names)
            audit.flush("published")
            index = Index.open(audit.reader, place / "state" / "index")
            try:
                return len(run_rules(index, [rule], now=clock.now))
            finally:
                index.close()


def _play(audit: AuditLog, clock: _Clock, rule: Rule, told: Mapping[str, Any], names: dict[str, str]) -> None:
    unknown = told.keys() - MEMBERS.keys()
    if unknown or "type" not in told:
        member = min(unknown, default="type")
        raise UsageError(f"Rule {rule.id}: an event of a test has a wrong or missing member {member!r}.")
    repeat, every = int(told.get("repeat", 1)), float(told.get("every_s", 1))
    for number in range(repeat):
        _log(audit, clock, told, names)
        clock.advance(every if number < repeat - 1 else float(told.get("then_s", 1)))


def _log(audit: AuditLog, clock: _Clock, told: Mapping[str, Any], names: dict[str, str]) -> None:
    kind = canonical_type(told["type"])
    metadata = dict(told.get("metadata", {}))
    if kind in EVENT_TYPES and EVENT_TYPES[kind].own:
        audit.append(own_event(kind, metadata, clock.now_ns())).wait()
        return
    event_id = new_event_id(clock.now_ns())
    if "key" in told:
        metadata["key_fingerprint"] = told["key"]
    if "units" in told:
        metadata["charge"] = [{"charge_type": "unit", "amount": told["units"], "package_type": "video"}]
    if "intent" in told:
        names[told["intent"]] = event_id
        metadata |= {"phase": "intent", "deadline_s": 300}
    if "answers" in told:
        metadata["intent"] = names[told["answers"]]
    draft = Draft(
        event_type=kind,
        event_id=event_id,
        timestamp=clock.now,
        actor_id=told.get("actor"),
        actor_type=told.get("actor_type"),
        team=told.get("team"),
        resource_type="user" if "user" in told else "trial",
        resource_id=told.get("user", "trial"),
        action="trial",
        outcome=told.get("outcome", "success"),
        ip_address=told.get("ip"),
        metadata=metadata,
    )
    audit.record(draft).wait()
