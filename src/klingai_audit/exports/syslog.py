"""RFC 5424 messages: facts as structured data, the entry itself as JSON after them. Pure.

A message holds printable ASCII, and UTF-8 inside the values of structured data, so it has no line break and needs no
byte order mark. Facility 13, log audit. Framing by octet counting (RFC 5425, RFC 6587) belongs to the connection.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from klingai_audit.exports import cef
from klingai_audit.exports.ocsf_rules import severity_of
from klingai_audit.exports.record import Record
from klingai_audit.exports.text import ascii_json, cut, harmless
from klingai_audit.views.times import format_instant

__all__ = [
    "FACILITY",
    "MAX_MESSAGE",
    "PARAMETERS",
    "SD_ID",
    "SEVERITY",
    "encode",
    "encode_cef",
    "encode_told",
    "frame",
    "host_name",
]

FACILITY: Final = 13
"""Log audit."""

MAX_MESSAGE: Final = 8_192
"""Most bytes of one message: what RFC 5425 asks every receiver to take."""

SD_ID: Final = "klingai-audit@32473"
"""Name of our structured data; 32473 is the number that RFC 5612 gives to those who have none of their own."""

SEVERITY: Final[Mapping[int, int]] = MappingProxyType({1: 6, 2: 5, 3: 4, 4: 3, 5: 2})
"""Severity as OCSF counts it -> as syslog does: 6 informational to 2 critical."""

_VALUE: Final = 255
_CUT: Final = ' cut="1"'
_BOM: Final = b"\xef\xbb\xbf"
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")
_NAME: Final = re.compile(r"[^\x21-\x7e]")
_ENCODE: Final = msgspec.json.Encoder().encode

PARAMETERS: Final[Mapping[str, tuple[str, Callable[[Record], str | None]]]] = MappingProxyType(
    {
        "seq": ("`seq`", lambda record: str(record.seq)),
        "leaf": ("leaf hash, hex", lambda record: record.leaf_hash),
        "size": ("size of the signed tree", lambda record: str(record.head.size)),
        "root": ("root of that tree, base64", lambda record: record.head.root_text),
        "origin": ("origin of the log", lambda record: record.head.origin),
        "event_id": ("`event_id`", lambda record: record.entry.event_id),
        "outcome": ("`outcome`", lambda record: record.entry.outcome),
        "actor": ("`actor_id`, a pseudonym", lambda record: record.entry.actor_id),
        "action": ("`action`", lambda record: record.entry.action),
        "resource_type": ("`resource_type`", lambda record: record.entry.resource_type),
        "resource_id": ("`resource_id`", lambda record: record.entry.resource_id),
        "team": ("`team`", lambda record: record.entry.team),
    }
)
"""Parameter of our structured data -> what it holds, and where that comes from."""


@functools.cache
def host_name() -> str:
    """Return this machine's name as a message may carry it: printable ASCII, at most 255 characters."""
    return _NAME.sub("_", socket.gethostname())[:255] or "-"


def encode(record: Record, host: str | None = None) -> bytes:
    """Return one record as one message, without framing; the entry is its text, in ASCII JSON (`text.ascii_json`).

    If that would be more than MAX_MESSAGE bytes, metadata is left out and the parameter `cut` says so.
    """
    head = _head(record, host)
    message = f"{head}{_data(record)} {ascii_json(record.entry.raw)}".encode()
    if len(message) <= MAX_MESSAGE:
        return message
    members = msgspec.json.decode(record.entry.raw)
    members.pop("metadata", None)
    head += _data(record, _CUT)
    message = f"{head} {ascii_json(_ENCODE(members))}".encode()
    return message if len(message) <= MAX_MESSAGE else head.encode()


def encode_cef(record: Record, host: str | None = None) -> bytes:
    """Return one record as one message whose text is its line of CEF; UTF-8 is announced as RFC 5424 asks.

    Values are cut shorter where the message would have more than MAX_MESSAGE bytes.
    """
    head = f"{_head(record, host)}- ".encode()
    message = b""
    for limit in (cef.LONG, _VALUE, 64):
        line = cef.encode(record, limit)
        message = head + (b"" if line.isascii() else _BOM) + line
        if len(message) <= MAX_MESSAGE:
            break
    return message


def encode_told(
    severity: int, moment: dt.datetime, kind: str, values: Mapping[str, str | None], text: str, host: str | None = None
) -> bytes:
    """Return a message about the log itself, without framing: `values` as our structured data, `text` after them.

    `severity` is syslog's, 0 to 7; `kind` is the message id.
    """
    stated = format_instant(moment).decode("ascii")
    name = _NAME.sub("_", kind)[:32] or "-"
    told = "".join(f' {key}="{_value(value)}"' for key, value in values.items() if value)
    head = f"<{FACILITY * 8 + severity}>1 {stated} {host or host_name()} klingai-audit - {name} [{SD_ID}{told}] "
    return head.encode() + _NOT_ASCII.sub("?", harmless(text)).encode()


def frame(message: bytes) -> bytes:
    """Return a message with its length in octets in front (RFC 5425 section 4.3)."""
    return b"%d %b" % (len(message), message)


def _head(record: Record, host: str | None) -> str:
    entry = record.entry
    priority = FACILITY * 8 + SEVERITY[severity_of(entry)]
    moment = format_instant(entry.timestamp).decode("ascii")
    kind = _NAME.sub("_", entry.event_type)[:32] or "-"
    return f"<{priority}>1 {moment} {host or host_name()} klingai-audit - {kind} "


def _data(record: Record, more: str = "") -> str:
    values = ((name, value_of(record)) for name, (_meaning, value_of) in PARAMETERS.items())
    told = "".join(f' {name}="{_value(value)}"' for name, value in values if value)
    return f"[{SD_ID}{told}{more}]"


def _value(text: str) -> str:
    r"""Escape a parameter's value: `\`, `"` and `]` (RFC 5424 section 6.3.3)."""
    return cut(harmless(text), _VALUE).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
