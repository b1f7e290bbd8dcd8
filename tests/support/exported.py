"""Records as exports see them, made without a log, and hostile values to put into them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from klingai_audit.event.record import Event, encode_event, format_time, new_event_id
from klingai_audit.exports.record import Record, TreeHead
from klingai_audit.ledger.line import splice
from klingai_audit.tlog.merkle import leaf_hash
from klingai_audit.views.entry import EntryView

NOON = 1_795_262_400 * 10**9  # 2026-11-21T12:00:00Z
HEAD = TreeHead("log.example.com/test", 1000, bytes(range(32)), b"a note\n")

HOSTILE = (
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(1,1)",
    " =1+1",
    "\t=1+1",
    "\uff1d1+1",
    "<script>alert(1)</script>",
    "\x1b]0;pwned\x07\x1b[2J\x1b[31mred",
    "\x9b31m c1",
    "[bold red]markup[/] [link=https://example.com]x[/link]",
    "line\r\nfeed\nreturn\rtab\t\x0b\x0c\x1c\x85\u2028\u2029",
    "\x00\x01\x7f\x80\x9f",
    "\u202eright to left\u2066\ufeff\u200b",
    "a|b|c\\|d\\",
    "key=value other\\=x cs1=forged",
    'quote " bracket ] backslash \\ ][forged@1 x="1"]',
    'x,y;z""\',\r\n=1',
    "<13>1 2026-11-21T00:00:00Z host app - - - forged",
    "CEF:0|forged|forged|1|1|1|1|",
    "'leading apostrophe",
    "grüße 映像 🎬",
    "💥" * 300,
)
"""What somebody could have put into any field."""

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(HOSTILE)
"""Any text that an entry can hold, hostile ones often."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
"""Values of metadata."""


def line(event_type: str = "x_test", *, seq: int = 7, **members: Any) -> bytes:
    """Return the stored bytes of one entry; `members` are those of the event."""
    told = {"actor_id": "p_0123456789abcdefghijkl", "actor_type": "user", "outcome": "success", **members}
    event = Event(event_id=new_event_id(), timestamp=format_time(NOON), event_type=event_type, **told)
    return splice(encode_event(event).body, seq, format_time(NOON + 1_000_000).encode(), bytes(32))


def record(event_type: str = "x_test", *, seq: int = 7, **members: Any) -> Record:
    """Return one record."""
    raw = line(event_type, seq=seq, **members)
    return Record(EntryView(raw), leaf_hash(raw), HEAD)


def filled(value: str, event_type: str = "video_downloaded") -> Record:
    """Return a record in which every member that callers choose holds `value`."""
    names = (
        "on_behalf_of", "team", "project", "resource_type", "resource_id", "action", "ip_address", "ip_ref",
        "user_agent", "correlation_id", "request_id",
    )  # fmt: skip
    members = dict.fromkeys(names, value)
    return record(
        event_type,
        actor_id=value,
        actor_type=value,
        metadata={value or "x": value, "nested": [{"x": value}]},
        **members,
    )
