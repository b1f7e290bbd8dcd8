"""CloudEvents into drafts: ids, subjects, extension attributes, and entries that another log exported."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import pytest

from klingai_audit.event.record import Draft, is_end_id, is_event_id
from klingai_audit.exports.cloudevents import encode
from klingai_audit.ingest.reading import read_events
from klingai_audit.ingest.wire import CLOUDEVENT, CLOUDEVENTS, Refused
from tests.support.exported import record
from tests.support.ingesting import IDS

LEAST = {"specversion": "1.0", "id": "job-17/3", "source": "/farm/eu-1", "type": "klingai-audit.x_done"}


def draft_of(event: dict[str, Any] | bytes) -> Draft:
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    (one,) = read_events(raw, CLOUDEVENT, 1)
    (same,) = read_events(b"[" + raw + b"]", CLOUDEVENTS, 1)
    assert one == same
    return one.draft


def fault_in(event: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        draft_of(event)
    assert 422 == caught.value.status
    return caught.value.faults[0].message


def test_attributes_become_members() -> None:
    """Type, time and subject have places of their own; source, id and extensions are kept."""
    moment = "2026-11-21T19:28:23.123456Z"
    found = draft_of({**LEAST, "time": moment, "subject": "shot/s-17/b", "traceparent": "00-ab", "attempt": 2,
                      "final": True, "dataschema": "https://example.com/s", "datacontenttype": "application/json",
                      "data": {"actor_id": "render-1", "metadata": {"frames": 240}}})  # fmt: skip
    assert ("x_done", "render-1", "shot", "s-17/b") == (
        found.event_type, found.actor_id, found.resource_type, found.resource_id,
    )  # fmt: skip
    assert dt.datetime(2026, 11, 21, 19, 28, 23, 123_456, dt.UTC) == found.timestamp
    attributes = {"traceparent": "00-ab", "attempt": 2, "final": True}
    about = {"source": "/farm/eu-1", "id": "job-17/3", "attributes": attributes, "dataschema": "https://example.com/s"}
    assert {"frames": 240, "cloudevent": about} == found.metadata


def test_what_data_says_wins_over_attributes() -> None:
    """A subject is for events that name no resource, a time for those without one."""
    data = {"resource_id": "r-1", "timestamp": "2026-01-01T00:00:00Z", "event_type": "x_done"}
    found = draft_of({**LEAST, "subject": "shot/s-17", "time": "2026-02-02T00:00:00Z", "data": data})
    assert (None, "r-1", 1) == (found.resource_type, found.resource_id, found.timestamp.month)
    assert draft_of(LEAST) == draft_of({**LEAST, "data": None}) == draft_of({**LEAST, "data": {}, "subject": None})


def test_ids() -> None:
    """A UUID is the event id; any other gives one by source and id, always the same, and never that of a task's end."""
    assert IDS[3] == draft_of({**LEAST, "id": IDS[3].upper()}).event_id
    first = draft_of(LEAST).event_id
    others = [
        {**LEAST, "id": "job-17/4"},
        {**LEAST, "source": "/farm/eu-2"},
        {**LEAST, "id": IDS[3].replace("-7", "-8")},
    ]
    found = [draft_of(event).event_id for event in (LEAST, *others)]
    assert first == found[0]
    assert 4 == len(set(found))
    assert all(one is not None and is_event_id(one) and not is_end_id(one) for one in found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "com.example.done"}, "/type: does not begin with klingai-audit."),
        ({"specversion": "0.3"}, "/specversion"),
        ({"id": ""}, "/id: "),
        ({"source": 7}, "/source: "),
        ({"data_base64": "e30="}, "/data_base64: expected `null`"),
        ({"datacontenttype": "text/xml"}, "/datacontenttype: not of its form"),
        ({"data": []}, "/data: expected `object`"),
        ({"data": {"outcome": "good"}}, "/data/outcome: not of its form"),
        ({"data": {"colour": 1}}, "/data/colour: there is no such member"),
        ({"data": {"event_type": "x_other"}}, "/data/event_type: another one"),
        ({"data": {"event_id": IDS[4]}}, "/data/event_id: another one"),
        ({"data": {"metadata": {"producer": "boss"}}}, "/data/metadata/producer: this name is kept"),
        ({"Not_allowed": "x"}, "/: an attribute"),
        ({"nested": {"a": 1}}, "/: an attribute"),
        ({"time": "yesterday"}, "/time: "),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    """By its JSON pointer in the CloudEvent."""
    assert fault_in({**LEAST, **change}).startswith(message), fault_in({**LEAST, **change})


def test_an_export_keeps_its_place() -> None:
    """What `export` wrote: event members as they were, the place in the other log, and that nobody wrote it anew."""
    exported = record(event_type="x_done", metadata={"frames": 240, "producer": "far"}, seq=41)
    encoded = encode(exported)
    found = draft_of(encoded)
    told = json.loads(encoded)
    about = found.metadata["cloudevent"]
    assert (told["id"], "x_done", 240) == (found.event_id, found.event_type, found.metadata["frames"])
    assert {"producer": "far"} == about["before"]
    place = {"seq": 41, "logged_at": told["data"]["logged_at"], "leaf_hash": told["leafhash"],
             "tree_size": told["treesize"], "tree_root": told["treeroot"], "unchanged": True}  # fmt: skip
    assert place == about["entry"]
    assert told["source"] == about["source"]
    again = json.dumps(told, indent=1).encode()
    assert {**place, "unchanged": False} == draft_of(again).metadata["cloudevent"]["entry"]


def test_another_log_does_not_speak_for_this_one() -> None:
    """Its entries about itself are told as such; `klingai-audit` is this log, so its source is the actor."""
    found = draft_of(encode(record(event_type="log_closed", actor_id="klingai-audit", actor_type="system", seq=7)))
    about = found.metadata["cloudevent"]
    assert ("x_forwarded_log_closed", "log_closed", about["source"]) == (
        found.event_type, about["type"], found.actor_id,
    )  # fmt: skip
    assert re.match("klingai-audit:", about["source"])
    assert "log_closed" == draft_of({**LEAST, "type": "klingai-audit.log_closed"}).event_type
