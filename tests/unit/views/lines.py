"""Entries for tests of views: made here from docs/format.md, not by the product."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from klingai_audit.privacy.subjects import Erased, Subject

NOW = dt.datetime(2026, 11, 21, 12, 0, tzinfo=dt.UTC)
ORDER = (
    "schema", "event_id", "timestamp", "event_type", "actor_id", "actor_type", "on_behalf_of", "team", "project",
    "resource_type", "resource_id", "action", "outcome", "ip_address", "ip_ref", "user_agent", "correlation_id",
    "request_id", "metadata", "seq", "logged_at", "prev_hash", "seal",
)  # fmt: skip


def stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event_id(number: int, version: int = 7) -> str:
    """A UUID of the given version that is the same for the same number."""
    value = bytearray(number.to_bytes(16, "big"))
    value[6] = value[6] & 0x0F | version << 4
    value[8] = value[8] & 0x3F | 0x80
    return str(uuid.UUID(bytes=bytes(value)))


def pseudonym(number: int) -> str:
    return f"p_{number:021d}A"


def line(seq: int, *, sealed: bool = True, when: dt.datetime = NOW, **members: Any) -> bytes:
    """One stored entry without LF; members that are None are left out."""
    found: dict[str, Any] = {
        "schema": 1,
        "event_id": event_id(seq),
        "timestamp": stamp(when),
        "event_type": "prompt_submitted",
        "actor_id": pseudonym(1),
        "actor_type": "user",
        "outcome": "success",
        **members,
        "seq": seq,
        "logged_at": stamp(when),
        "prev_hash": "0" * 64,
    }
    if sealed:
        found["seal"] = "A" * 43
    ordered = {name: found[name] for name in ORDER if found.get(name) is not None}
    return json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()


class People:
    """A subject table in memory: raw id → pseudonym number."""

    def __init__(self, people: dict[str, int]) -> None:
        self._pseudonyms = {name: pseudonym(number) for name, number in people.items()}
        self.revealed: list[str] = []
        self.gone: dict[str, Erased] = {}

    def resolve(self, id: str, *, kind: str = "person") -> Subject:
        raise AssertionError("a view must not create people")

    def find(self, id: str) -> Subject | None:
        found = self._pseudonyms.get(id)
        return None if found is None else Subject(found, b"\0" * 32)

    def get(self, pseudonym: str) -> Subject | None:
        raise AssertionError("a view must not read keys")

    def reveal(self, pseudonym: str) -> str | None:
        self.revealed.append(pseudonym)
        return next((raw for raw, known in self._pseudonyms.items() if known == pseudonym), None)

    def pseudonyms(self) -> list[str]:
        return sorted(self._pseudonyms.values())

    def erased(self, pseudonym: str) -> Erased | None:
        return self.gone.get(pseudonym)

    def when_erased(self, forget: Callable[[], None]) -> None:
        return None

    def destroy_all(self, those: Iterable[Erased]) -> int:
        raise AssertionError("a view must not erase people")

    def close(self) -> None:
        return None

    def after_fork(self) -> None:
        return None


PEOPLE = People({"user@example.com": 1, "usher@example.com": 2, "boss@example.org": 3})
