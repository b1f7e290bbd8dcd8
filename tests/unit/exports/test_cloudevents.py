"""CloudEvents 1.0: names, types and limits of the specification, read from the JSON that leaves."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given

from klingai_audit.exports.cloudevents import encode
from klingai_audit.exports.record import Record
from tests.support.exported import HEAD, HOSTILE, filled, json_values, record

CONTEXT = {"specversion", "id", "source", "type", "time", "subject", "datacontenttype", "dataschema", "data"}


def check(encoded: bytes) -> dict[str, Any]:
    """Check one event against the rules of the specification, sections 3 and 3.1."""
    event: dict[str, Any] = json.loads(encoded)
    assert {"specversion", "id", "source", "type"} <= set(event)
    assert "1.0" == event["specversion"]
    for name, value in event.items():
        assert re.fullmatch(r"[a-z0-9]{1,20}", name)
        if name != "data":
            assert isinstance(value, str)
            assert value
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", event["source"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["time"])
    assert set(event) - CONTEXT == {"sequence", "leafhash", "treesize", "treeroot"}
    return event


@pytest.mark.parametrize("value", HOSTILE)
def test_hostile_values_stay_inside(value: str) -> None:
    """One line, no control character, and the value comes back as it is."""
    encoded = encode(filled(value))
    assert b"\n" not in encoded
    assert b"\x1b" not in encoded
    assert value == check(encoded)["data"]["team"]


@given(json_values)
def test_data_is_the_stored_entry(value: Any) -> None:
    """The stored bytes stand in the event unchanged, so the leaf hash can be computed from them."""
    exported = record(metadata={"value": value}, seq=41)
    encoded = encode(exported)
    event = check(encoded)
    assert encoded.endswith(b'"data":' + exported.entry.raw + b"}")
    assert hashlib.sha256(b"\0" + exported.entry.raw).hexdigest() == event["leafhash"]
    assert ("00000000000000000041", "1000", HEAD.root_text) == (
        event["sequence"],
        event["treesize"],
        event["treeroot"],
    )


def test_identity_and_subject() -> None:
    """Equal ids of one source are one event to every consumer; what was acted on is the subject, if there is one."""
    exported: Record = record("video_deleted", resource_type="video", resource_id="831")
    event = check(encode(exported))
    assert (exported.entry.event_id, "klingai-audit:log.example.com/test", "klingai-audit.video_deleted") == (
        event["id"],
        event["source"],
        event["type"],
    )
    assert "video/831" == event["subject"]
    assert "subject" not in check(encode(record()))
