"""The peer: what teams write themselves. One JSON line an event, chained by SHA-256, synced one by one."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


class NaiveLog:
    """Opens, appends, syncs and closes for every event."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prev = "genesis"

    def log(self, event: dict[str, Any]) -> None:
        record = {**stamped(event), "prev_hash": self.prev}
        self.prev = _digest(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "hash": self.prev}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def write_many(path: Path, events: list[dict[str, Any]]) -> None:
    """Write a chained file in one go, for the verification benchmark."""
    prev = "genesis"
    with path.open("w", encoding="utf-8") as file:
        for event in events:
            record = {**stamped(event), "prev_hash": prev}
            prev = _digest(record)
            file.write(json.dumps({**record, "hash": prev}) + "\n")


def stamped(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event with the members that such loggers add: an id, a time, who and how it ended."""
    return {
        "event_id": str(uuid.uuid4()),
        "timestamp": dt.datetime.now(dt.UTC).isoformat(),
        "actor_type": "user",
        "outcome": "success",
        "user_agent": "studio-app/2.1",
        **event,
    }


def verify(path: Path) -> int:
    """Parse, re-dump and re-hash every line; returns how many were good."""
    prev, good = "genesis", 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            claimed = record.pop("hash")
            if record["prev_hash"] == prev and _digest(record) == claimed:
                good += 1
            prev = claimed
    return good


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
