"""Writers of logs as the two published recipes leave them; written from the description of what they do.

Both keep everything in one process: a second process starts a second chain, and nothing ever checks what is there.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

START = dt.datetime(2026, 3, 1, 9, 0, 0, 250_000, tzinfo=dt.UTC)


def digest(text: str) -> str:
    """Sixteen hex digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stamp(moment: dt.datetime) -> str:
    """A time as both write it: ISO 8601 without zone, and a Z."""
    return moment.replace(tzinfo=None).isoformat() + "Z"


class ChecksumWriter:
    """The first recipe: JSON lines with a checksum each; masks people and addresses unless told not to."""

    def __init__(self, path: Path, *, include_pii: bool = False, seed: int = 1) -> None:
        self.path = path
        self._include_pii = include_pii
        self._seed = seed
        self._count = 0

    def log(
        self, event_type: str, actor_id: str, resource_type: str, action: str, outcome: str = "success",
        resource_id: str | None = None, actor_type: str = "user", ip_address: str | None = None,
        user_agent: str | None = None, **metadata: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Append one line and return it as written."""
        self._count += 1
        event = {
            "event_id": str(uuid.UUID(int=self._seed * 1_000_003 + self._count, version=4)),
            "timestamp": stamp(START + dt.timedelta(seconds=self._count)),
            "event_type": event_type,
            "actor_id": self._person(actor_id),
            "actor_type": actor_type,
            "resource_type": resource_type,
            "resource_id": resource_id,
            "action": action,
            "outcome": outcome,
            "ip_address": self._address(ip_address) if ip_address else None,
            "user_agent": user_agent,
            "metadata": {name: self._value(name, value) for name, value in metadata.items()},
        }
        checked = (event[name] for name in ("event_id", "timestamp", "event_type", "actor_id", "action"))
        event["checksum"] = digest(":".join(map(str, checked)))
        append(self.path, event)
        return event

    def _person(self, value: str) -> str:
        if self._include_pii or "@" not in value:
            return value
        local, domain = value.split("@")
        return f"{local[:2]}***@{domain}"

    def _address(self, value: str) -> str:
        if self._include_pii:
            return value
        parts = value.split(".")
        return f"{parts[0]}.{parts[1]}.xxx.xxx" if len(parts) == 4 else "xxx.xxx.xxx.xxx"

    @staticmethod
    def _value(name: str, value: Any) -> Any:
        secret = any(word in name.lower() for word in ("api_key", "password", "token", "secret"))
        return "***REDACTED***" if secret else value


class ChainWriter:
    """The second recipe, one process of it: a file a day, each line hashed with the hash of the line before."""

    def __init__(self, folder: Path, *, begin: dt.datetime = START) -> None:
        self.folder = folder
        self._moment = begin
        self._previous = "genesis"

    def log(self, event_type: str, actor: str, details: dict[str, Any], *, hours: float = 0.01) -> dict[str, Any]:
        """Append one line, `hours` after the last, and return it as written."""
        self._moment += dt.timedelta(hours=hours)
        entry: dict[str, Any] = {
            "timestamp": stamp(self._moment),
            "event_type": event_type,
            "actor": actor,
            "details": details,
            "prev_hash": self._previous,
        }
        entry["hash"] = self._previous = digest(json.dumps(entry, sort_keys=True) + self._previous)
        append(self.folder / f"audit-{self._moment:%Y-%m-%d}.jsonl", entry)
        return entry


def append(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
