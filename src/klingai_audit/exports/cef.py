r"""CEF, version 0 of the format: one line for each entry. Pure.

Source: the "ArcSight Common Event Format" implementation standard, versions 23 to 26: a header of seven fields between
pipes, in which `\` and `|` are escaped, and pairs `key=value`, in whose values `\` and `=` are. Line breaks never
get that far: every value is made `harmless` first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from klingai_audit.exports.ocsf import meaning_of, product_version
from klingai_audit.exports.ocsf_rules import severity_of
from klingai_audit.exports.record import Record
from klingai_audit.exports.text import cut, harmless
from klingai_audit.views.inert import one_line

__all__ = ["EXTENSIONS", "LABELS", "LONG", "SEVERITY", "encode"]

SEVERITY: Final[Mapping[int, int]] = MappingProxyType({1: 2, 2: 3, 3: 5, 4: 8, 5: 10})
"""Severity as OCSF counts it -> as CEF does, 0 to 10."""

SHORT: Final = 1023
LONG: Final = 4000
"""Most characters that the standard allows in most values, and in those of `cs1` to `cs6`."""

LABELS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cn1": "seq",
        "cn2": "tree size",
        "cs1": "leaf hash",
        "cs2": "tree root",
        "cs3": "log origin",
        "cs4": "team",
        "cs5": "project",
        "cs6": "resource",
        "flexString1": "correlation id",
    }
)
"""Fields of CEF that have no meaning of their own -> what they hold; written out as `<field>Label`."""


def _milliseconds(record: Record) -> str:
    return str(int(record.entry.timestamp.timestamp() * 1000))


def _resource(record: Record) -> str | None:
    parts = (record.entry.resource_type, record.entry.resource_id)
    return "/".join(part for part in parts if part) or None


def _metadata(record: Record) -> str | None:
    values = record.entry.metadata
    return " ".join(f"{name}={one_line(value)}" for name, value in values.items()) or None


EXTENSIONS: Final[Mapping[str, tuple[str, int, Callable[[Record], str | None]]]] = MappingProxyType(
    {
        "rt": ("`timestamp`, in milliseconds since 1970", 20, _milliseconds),
        "externalId": ("`event_id`", 40, lambda record: record.entry.event_id),
        "cat": ("`event_type`", 64, lambda record: record.entry.event_type),
        "act": ("`action`", SHORT, lambda record: record.entry.action),
        "outcome": ("`outcome`", 63, lambda record: record.entry.outcome),
        "suid": ("`actor_id`, a pseudonym", SHORT, lambda record: record.entry.actor_id),
        "spriv": ("`actor_type`", SHORT, lambda record: record.entry.actor_type),
        "duid": ("`on_behalf_of`, a pseudonym", SHORT, lambda record: record.entry.on_behalf_of),
        "sourceTranslatedZoneExternalID": ("`ip_ref`", SHORT, lambda record: record.entry.ip_ref),
        "shost": ("`ip_address`, masked", SHORT, lambda record: record.entry.ip_address),
        "requestClientApplication": ("`user_agent`", SHORT, lambda record: record.entry.user_agent),
        "deviceExternalId": ("`request_id`", 255, lambda record: record.entry.request_id),
        "flexString1": ("`correlation_id`", SHORT, lambda record: record.entry.correlation_id),
        "cn1": ("`seq`", 20, lambda record: str(record.seq)),
        "cn2": ("size of the signed tree", 20, lambda record: str(record.head.size)),
        "cs1": ("leaf hash, hex", 64, lambda record: record.leaf_hash),
        "cs2": ("root of that tree, base64", 44, lambda record: record.head.root_text),
        "cs3": ("origin of the log", LONG, lambda record: record.head.origin),
        "cs4": ("`team`", LONG, lambda record: record.entry.team),
        "cs5": ("`project`", LONG, lambda record: record.entry.project),
        "cs6": ("`resource_type`/`resource_id`", LONG, _resource),
        "msg": ("`metadata`, `name=value`, cut to 1,023 characters", SHORT, _metadata),
    }
)
"""Key of the extension -> what it holds, the most characters of its value, and where that comes from."""


def encode(record: Record, limit: int = LONG) -> bytes:
    """Return one record as one line of CEF in UTF-8, without LF; no value has more than `limit` characters."""
    entry = record.entry
    head = ("klingai-audit", "klingai-audit", product_version(), entry.event_type, meaning_of(entry.event_type))
    fields = [cut(harmless(field), SHORT).replace("\\", "\\\\").replace("|", "\\|") for field in head]
    fields.append(str(SEVERITY[severity_of(entry)]))
    pairs = []
    for key, (_meaning, most, value_of) in EXTENSIONS.items():
        value = value_of(record)
        if value is None:
            continue
        shown = cut(harmless(value), min(most, limit)).replace("\\", "\\\\").replace("=", "\\=")
        pairs.append(f"{key}={shown}")
        if key in LABELS:
            pairs.append(f"{key}Label={LABELS[key]}")
    return f"CEF:0|{'|'.join(fields)}|{' '.join(pairs)}".encode()
