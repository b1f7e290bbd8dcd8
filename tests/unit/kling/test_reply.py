"""Answers of both generations, of resellers, and of nobody at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.kling.errors import CODES
from klingai_audit.kling.reply import clean_id, read_done, read_page, read_reply, read_task, read_tasks

LEGACY = {
    "task_id": "831045678901234567",
    "task_status": "succeed",
    "task_status_msg": "",
    "task_info": {"external_task_id": "mine-1"},
    "task_result": {
        "videos": [{"id": "v1", "url": "https://cdn/x.mp4", "watermark_url": "https://cdn/w.mp4", "duration": "5.1"}]
    },
    "final_unit_deduction": "3.5",
    "final_balance_deduction": {"quota": "0.49", "list_price": "0.70"},
    "created_at": 1781080778802,
    "updated_at": "1781080794151",
}
NEW = {
    "id": "831045678901234567",
    "status": "succeeded",
    "message": "",
    "external_id": "mine-1",
    "create_time": 1781080778802,
    "update_time": 1781080794151,
    "outputs": [
        {"type": "video", "id": "v1", "url": "https://cdn/x.mp4", "watermark_url": "https://cdn/w.mp4", "duration": 5.1}
    ],
    "billing": [
        {"charge_type": "unit", "amount": "3.5", "package_type": "video"},
        {"charge_type": "cash", "amount": "0.49", "cash_type": "balance", "currency": "USD", "list_price": "0.70"},
    ],
}


def envelope(**more) -> bytes:
    """Return an envelope as bytes."""
    return json.dumps({"code": 0, "message": "SUCCEED", "request_id": "r-1", **more}).encode()


def test_both_generations_are_one_record():
    """The same task told in both ways reads the same, but for what only one of them tells."""
    legacy, new = read_task(LEGACY), read_task(NEW)
    for name in ("id", "status", "external_id", "created_ms", "updated_ms", "results", "product", "final"):
        assert getattr(legacy, name) == getattr(new, name), name
    assert [charge.facts() for charge in legacy.charges] == [
        {"charge_type": "unit", "amount": "3.5"},
        {"charge_type": "cash", "amount": "0.49", "list_price": "0.70"},
    ]
    assert [charge.facts() for charge in new.charges] == NEW["billing"]


@pytest.mark.parametrize(
    "word,status,final",
    [
        ("submitted", "submitted", False),
        ("processing", "processing", False),
        ("succeed", "succeeded", True),
        ("succeeded", "succeeded", True),
        ("SUCCEED ", "succeeded", True),
        ("failed", "failed", True),
        ("paused", "paused", False),
        ("<script>", "unrecognised", False),
        (None, "unrecognised", False),
        (7, "unrecognised", False),
    ],
)
def test_status_words(word, status, final):
    """Both words for success are one; what nobody knows ends nothing."""
    task = read_task({**LEGACY, "task_status": word})
    assert (task.status, task.final) == (status, final)


@pytest.mark.parametrize(
    "status,body,verdict,code",
    [
        (200, envelope(data=LEGACY), "ok", 0),
        (200, envelope(code="0", data=LEGACY), "ok", 0),
        (200, json.dumps({"data": NEW}).encode(), "ok", 0),
        (200, envelope(code="success", data=NEW), "ok", 0),
        (429, envelope(code="1303"), "refused", 1303),
        (200, envelope(code=1301), "refused", 1301),
        (400, envelope(code=1777), "refused", 1777),
        (200, envelope(code=1777), "unclear", 1777),
        (500, envelope(code=5000), "unclear", 5000),
        (500, envelope(code=0, data=NEW), "unclear", None),
        (200, envelope(code=None), "unclear", None),
        (200, envelope(code=True), "unclear", None),
        (200, b"", "unclear", None),
        (200, None, "unclear", None),
        (200, b"<html>", "unclear", None),
        (200, b"[]", "unclear", None),
        (502, b"Bad Gateway", "unclear", None),
        (403, b"Forbidden", "refused", None),
        (408, b"", "unclear", None),
        (302, b"", "unclear", None),
    ],
)
def test_verdicts(status, body, verdict, code):
    """Code and status together say whether a call took effect; what contradicts itself is unclear."""
    reply = read_reply(status, body)
    assert (reply.verdict, reply.code) == (verdict, code)
    assert reply.http_status == status


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_read(code):
    """Server errors leave a call unclear, all others refuse it."""
    reply = read_reply(CODES[code].http_status, envelope(code=code))
    assert reply.verdict == ("unclear" if code >= 5000 else "refused")
    assert (reply.code, reply.request_id, reply.key) == (code, "r-1", str(code))


def test_pages_and_lists():
    """A list, a single record, a page with its cursor, an empty account; records without id are left out."""
    assert [task.id for task in read_tasks([NEW, {}, 7, {**NEW, "id": "2"}])] == [NEW["id"], "2"]
    assert [task.id for task in read_tasks(LEGACY)] == [LEGACY["task_id"]]
    assert read_page({"count": 0, "has_more": False}) == ([], None)
    tasks, cursor = read_page({"result": [NEW], "count": 1, "has_more": True, "next_cursor": "c"})
    assert ([task.id for task in tasks], cursor) == ([NEW["id"]], "c")
    assert read_page({"result": [NEW], "has_more": False, "next_cursor": "c"})[1] is None


@pytest.mark.parametrize(
    "value,expected",
    [
        ("831045678901234567", "831045678901234567"),
        (831045678901234567, "831045678901234567"),
        ("a b", None),
        ("", None),
        ("-x", None),
        ("x" * 129, None),
        (True, None),
        (10**30, None),
        (1.5, None),
        ({"id": 1}, None),
    ],
)
def test_ids(value, expected):
    """An id may stand in an entry only if it looks like one."""
    assert clean_id(value) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=20,
)
names = st.sampled_from(sorted({*LEGACY, *NEW, "code", "message", "request_id", "data", "result", "next_cursor"}))
answers = st.dictionaries(names, json_values | st.dictionaries(names, json_values, max_size=8), max_size=8)


@given(st.integers(100, 599), st.one_of(st.binary(max_size=64), answers.map(lambda value: json.dumps(value).encode())))
def test_reading_is_total(status, body):
    """Whatever comes, there is a reply, its records have usable ids and amounts, and nothing is raised."""
    reply = read_reply(status, body)
    assert reply.verdict in ("ok", "refused", "unclear")
    for task in [*read_tasks(reply.data), *read_page(reply.data)[0]]:
        assert clean_id(task.id) == task.id
        assert all(isinstance(charge.amount, str) and charge.amount for charge in task.charges)


RESULTS = {
    "images": (
        {"images": [{"index": 0, "url": "u0", "watermark_url": "w0"}, {"index": 1, "url": "u1"}]},
        [("image", None, "u0"), ("image", None, "u1")],
    ),
    "series": ({"series_images": [{"index": 0, "url": "s0"}]}, [("image", None, "s0")]),
    "three views": (
        {"images": [{"index": 0, "url_1": "a", "url_2": "b", "url_3": "c"}]},
        [("image", None, n) for n in "abc"],
    ),
    "sound": (
        {"audios": [{"id": "1", "url_mp3": "m", "url_wav": "w", "duration_mp3": "3.0"}]},
        [("audio", "1", "m")],
    ),
    "sound and video": (
        {"videos": [{"id": "v", "url": "x"}], "audios": [{"audio_id": "1", "url_mp3": "m"}]},
        [("video", "v", "x"), ("audio", "1", "m")],
    ),
    "voice": (
        {"voices": [{"voice_id": "9", "voice_name": "n", "trial_url": "t", "owned_by": "kling"}]},
        [("voice", "9", "t")],
    ),
    "element": (
        {"elements": [{"element_id": 857, "element_name": "n", "status": "succeed"}]},
        [("element", "857", None)],
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_of_every_product(name):
    """Legacy lists of images, sounds, voices and elements, in the order in which they stand."""
    given_results, expected = RESULTS[name]
    record = read_task({"task_id": "1", "task_status": "succeed", "task_result": given_results})
    assert [(result.kind, result.id, result.url) for result in record.results] == expected
    assert record.product == expected[0][0]


def test_outputs_of_the_new_design():
    """The typed union of the new design."""
    outputs = [
        {"type": "image", "url": "u", "group_id": "g"},
        {"type": "audio", "id": "a", "mp3_url": "m", "wav_url": "w", "mp3_duration": "3"},
        {"type": "voice", "id": "v", "name": "n", "url": "t", "owned_by": "kling", "status": "deleted"},
        {"type": "element", "id": "e", "name": "n"},
    ]
    found = read_task({"id": "1", "status": "succeeded", "outputs": outputs}).results
    assert [(result.kind, result.id, result.url, result.wav_url) for result in found] == [
        ("image", None, "u", None),
        ("audio", "a", "m", "w"),
        ("voice", "v", "t", None),
        ("element", "e", None, None),
    ]
    assert (found[1].duration, found[2].state, found[2].name) == ("3", "deleted", "n")


@pytest.mark.parametrize(
    "data,expected",
    [
        ({"final_unit_deduction": "0.05", "session_id": "s"}, ("", "succeeded")),
        ({"task_id": "7", "task_status": "processing"}, ("7", "processing")),
        ({"task_id": "7"}, ("7", "succeeded")),
        ({}, ("", "succeeded")),
    ],
)
def test_what_a_synchronous_call_did(data, expected):
    """No id and no status are needed for an answer that is the result."""
    done = read_done(data)
    assert (done.id, done.status) == expected
    assert done.raw == data
    assert read_done(None) is None


def test_the_video_that_a_task_was_made_from():
    """Extensions and lip-syncs name their parent."""
    record = read_task({"task_id": "1", "task_status": "x", "task_info": {"parent_video": {"id": "p", "url": "u"}}})
    assert record.parent_id == "p"
    assert read_task({"task_id": "1", "task_info": {"parent_video": 3}}).parent_id is None
