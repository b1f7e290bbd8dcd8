"""CloudEvents 1.0 in its JSON format: one object for each entry, the stored bytes inside as `data`. Pure.

Source: CloudEvents specification 1.0.2, its JSON event format, and the documented extension `sequence`. Sizes are
texts, because an Integer of CloudEvents has 32 bits.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

import msgspec

from klingai_audit.exports.record import Record
from klingai_audit.views.times import format_instant

__all__ = ["TYPE_PREFIX", "encode"]

TYPE_PREFIX: Final = "klingai-audit."
"""What stands before the event type in `type`."""

_ENCODE: Final = msgspec.json.Encoder().encode


def encode(record: Record) -> bytes:
    """Return one record as one line of JSON, without LF; the stored entry stands in it unchanged."""
    entry = record.entry
    subject = "/".join(part for part in (entry.resource_type, entry.resource_id) if part)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": entry.event_id,
        "source": "klingai-audit:" + quote(record.head.origin, safe="/:@"),
        "type": TYPE_PREFIX + entry.event_type,
        "time": format_instant(entry.timestamp).decode("ascii"),
        **({"subject": subject} if subject else {}),
        "datacontenttype": "application/json",
        "sequence": f"{record.seq:020d}",
        "leafhash": record.leaf_hash,
        "treesize": str(record.head.size),
        "treeroot": record.head.root_text,
        "data": msgspec.Raw(entry.raw),
    }
    return _ENCODE(event)
