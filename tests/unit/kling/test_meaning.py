"""Every catalogue row × every outcome → event types: nothing is silent."""

from __future__ import annotations

import datetime as dt
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.capture.facts import Exchange, Media, RequestFacts
from klingai_audit.capture.memory import Memory
from klingai_audit.event.record import end_event_id, new_event_id
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.kling.errors import CODES
from klingai_audit.kling.meaning import PROVIDER
from klingai_audit.privacy.commitment import ToCommit

HOST = "https://api-singapore.klingai.com"
TASK = "831045678901234567"
EXTERNAL = "01a20014-3398-77f1-87a9-48d02febd02d"
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
ROWS = {
    "new create": ("POST", f"{HOST}/text-to-video/kling-3.0"),
    "legacy create": ("POST", f"{HOST}/v1/videos/text2video"),
    "legacy one": ("GET", f"{HOST}/v1/videos/text2video/{TASK}"),
    "legacy list": ("GET", f"{HOST}/v1/videos/text2video?pageNum=1"),
    "tasks by id": ("GET", f"{HOST}/tasks?task_ids={TASK}"),
    "tasks search": ("POST", f"{HOST}/tasks"),
    "download": ("GET", "https://cdn.klingai.com/a.mp4"),
    "unknown write": ("POST", f"{HOST}/v1/new/things"),
    "unknown read": ("GET", f"{HOST}/v1/new/things"),
}
CREATES = ("new create", "legacy create")
LISTS = ("legacy list", "tasks search")
QUERIES = ("legacy one", "tasks by id", *LISTS)
BLOCKED = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1103, 1304), ("access_denied", "blocked")),
    **dict.fromkeys((1300, 1301), ("policy_violation", "blocked")),
    **dict.fromkeys((1302, 1303), ("rate_limit_exceeded", "blocked")),
}
FAILED = {
    "new create": ("video_generation_failed", "failure"),
    "legacy create": ("video_generation_failed", "failure"),
    "unknown write": ("task_completed", "failure"),
    "download": ("video_downloaded", "failure"),
}
UNCLEAR = {
    "new create": ("video_generation_started", "unknown"),
    "legacy create": ("video_generation_started", "unknown"),
    "unknown write": ("task_submitted", "unknown"),
}


def interpret(row, *, order=b'{"prompt":"a lake"}', memory=None, extra=None, **ending):
    """Interpret one ending of a row's exchange; returns the intent and the outcomes."""
    method, url = ROWS.get(row, row)
    held = memory or Memory("o")
    operation = PROVIDER.classify(method, url, held)
    credential = {"kind": "api_key", "fingerprint": "f" * 16}
    request = RequestFacts(method=method, url=url, body=order, credential=credential, started=NOON)
    event_id = new_event_id()
    intent = PROVIDER.intent(operation, request, event_id, extra or {})
    intent = intent.replace(event_id=event_id, correlation_id=intent.correlation_id or event_id)
    exchange = Exchange(request=request, finished=NOON + dt.timedelta(milliseconds=1234), **ending)
    outcomes = PROVIDER.outcome(operation, exchange, intent, held)
    key = PROVIDER.key_used(operation, exchange, intent)
    return intent, outcomes, key


def envelope(data=None, code=0, message="SUCCEED") -> bytes:
    """Return an envelope as bytes."""
    return json.dumps({"code": code, "message": message, "request_id": "r-1", "data": data}).encode()


def task(row: str, status: str, task_id: str = TASK, **more) -> object:
    """Return the data of a successful reply of a row with one task."""
    legacy = {"task_id": task_id, "task_status": {"succeeded": "succeed"}.get(status, status), **more}
    new = {"id": task_id, "status": status, **more}
    forms = {
        "legacy one": legacy,
        "legacy create": legacy,
        "legacy list": [legacy],
        "tasks by id": [new],
        "tasks search": {"result": [new], "count": 1},
    }
    return forms.get(row, new)


def told(outcomes) -> list[tuple[str, str]]:
    """Return event types and outcomes."""
    return [(str(outcome.draft.event_type), outcome.draft.outcome) for outcome in outcomes]


@pytest.mark.parametrize("row,code", list(itertools.product(ROWS, CODES)))
def test_every_code_on_every_row(row, code):
    """A refusal is one entry: rate limit, policy, access, else the row's failure; server errors leave creates open."""
    _, outcomes, _ = interpret(row, status=CODES[code].http_status, body=envelope(code=code, message="no"))
    if row == "download":
        expected = ("video_downloaded", "failure")
    elif code >= 5000:
        expected = UNCLEAR.get(row, ("resource_read", "failure"))
    else:
        expected = BLOCKED.get(code) or FAILED.get(row, ("resource_read", "failure"))
    assert told(outcomes) == [expected]
    if row != "download":
        metadata = outcomes[0].draft.metadata
        assert (metadata["code"], metadata["category"]) == (code, CODES[code].category)
        assert metadata["provider_message"] == ToCommit("no")
        assert outcomes[0].draft.request_id == "r-1"


ENDINGS = {
    "not sent": {"error": "ConnectError", "sent": False},
    "lost": {"error": "ReadTimeout"},
    "broke off": {"status": 200, "error": "ReadError"},
    "too long": {"status": 200, "truncated": True},
    "empty": {"status": 200, "body": b""},
    "html": {"status": 200, "body": b"<html>"},
    "gateway": {"status": 502, "body": b"Bad Gateway"},
    "bare 401": {"status": 401, "body": b""},
    "bare 403": {"status": 403, "body": b""},
    "bare 404": {"status": 404, "body": b""},
    "bare 429": {"status": 429, "body": b""},
    "redirect": {"status": 302, "body": b""},
    "no data": {"status": 200, "body": envelope()},
    "odd data": {"status": 200, "body": envelope({"task_id": {"a": 1}})},
}
EXPECTED = {
    "not sent": (FAILED, ("resource_read", "failure")),
    "lost": ({**UNCLEAR, "download": ("video_downloaded", "unknown")}, ("resource_read", "unknown")),
    "bare 401": ({}, ("access_denied", "blocked")),
    "bare 403": ({}, ("access_denied", "blocked")),
    "bare 404": (FAILED, ("resource_read", "failure")),
    "bare 429": ({}, ("rate_limit_exceeded", "blocked")),
}


@pytest.mark.parametrize("row,ending", list(itertools.product(ROWS, ENDINGS)))
def test_every_broken_ending_on_every_row(row, ending):
    """Whatever goes wrong has one entry; sent without a usable answer is unknown for whatever may have cost money."""
    _, outcomes, key = interpret(row, **ENDINGS[ending])
    special, otherwise = EXPECTED.get(ending, (UNCLEAR, ("resource_read", "failure")))
    expected = special.get(row, otherwise)
    if row == "download" and ending != "lost":
        expected = ("video_downloaded", "failure")
    elif ending in ("no data", "odd data") and row not in CREATES:
        expected = {
            "unknown write": ("task_submitted", "success"),
            "legacy one": ("resource_read", "failure"),
        }.get(row, ("resource_read", "success"))
    assert told(outcomes) == [expected]
    assert (key is None) is (ENDINGS[ending].get("status") in (None, 401))


@pytest.mark.parametrize("row,status", list(itertools.product(CREATES, ["submitted", "processing"])))
def test_an_accepted_create(row, status):
    """The start names task, request and intent; the memory will know product, generation and model."""
    intent, outcomes, key = interpret(row, status=200, body=envelope(task(row, status)))
    assert told(outcomes) == [("video_generation_started", "success")]
    draft, sight = outcomes[0].draft, outcomes[0].sight
    assert (draft.resource_type, draft.resource_id, draft.request_id) == ("video", TASK, "r-1")
    assert draft.metadata["intent"] == intent.event_id == draft.correlation_id
    assert draft.metadata["elapsed_ms"] == 1234
    assert (sight.thing, sight.opens, sight.final) == (TASK, True, False)
    assert sight.note["product"] == "video"
    assert (key.event_type, key.resource_id) == ("api_key_used", "f" * 16)


@pytest.mark.parametrize("row", CREATES)
def test_a_create_that_has_ended_already(row):
    """A reply that is the end at once gives both entries, joined."""
    intent, outcomes, _ = interpret(row, status=200, body=envelope(task(row, "succeeded")))
    assert told(outcomes) == [("video_generation_started", "success"), ("video_generation_completed", "success")]
    assert {outcome.draft.correlation_id for outcome in outcomes} == {intent.event_id}
    assert outcomes[1].draft.event_id == end_event_id("o", TASK, "succeeded")


@pytest.mark.parametrize(
    "row,status", list(itertools.product(QUERIES, ["submitted", "processing", "succeeded", "failed", "odd"]))
)
def test_every_status_on_every_query(row, status):
    """A status or the end of the task; a list also leaves its own entry; unknown running tasks in lists leave none."""
    _, outcomes, _ = interpret(row, status=200, body=envelope(task(row, status)))
    listing = [("resource_read", "success")] if row in LISTS else []
    product = "video_generation" if row.startswith("legacy") else None
    if status in ("succeeded", "failed"):
        well = status == "succeeded"
        name = f"{product}_{'completed' if well else 'failed'}" if product else "task_completed"
        assert told(outcomes) == [(name, "success" if well else "failure"), *listing]
        assert outcomes[0].once
        assert outcomes[0].draft.event_id == end_event_id("o", TASK, status)
    else:
        seen = [] if row in LISTS else [("task_status_changed", "success")]
        assert told(outcomes) == seen + listing


@pytest.mark.parametrize("row", ["unknown write", "unknown read"])
def test_unknown_calls_of_a_kling_host(row):
    """What no row names is recorded with its path as action."""
    intent, outcomes, _ = interpret(row, status=200, body=envelope({"x": 1}))
    expected = ("task_submitted", "success") if row == "unknown write" else ("resource_read", "success")
    assert told(outcomes) == [expected]
    assert outcomes[0].draft.action == ROWS[row][1].removeprefix(HOST)
    if row == "unknown write":
        assert intent.event_type == "prompt_submitted"
        _, outcomes, _ = interpret(row, status=200, body=envelope(task(row, "submitted")))
        assert (outcomes[0].draft.resource_id, outcomes[0].sight.thing) == (TASK, TASK)


def test_all_types_are_registered():
    """No outcome of any table is a type that the log would refuse."""
    names = {name for table in (BLOCKED, FAILED, UNCLEAR) for name, _ in table.values()}
    assert names <= set(EVENT_TYPES)


def test_a_known_task_is_told_with_what_is_known():
    """Correlation, product, generation and model come from the create, whatever route the end is seen on."""
    memory = Memory("o")
    intent, (opened,), _ = interpret(
        "new create", status=200, body=envelope(task("new create", "submitted")), memory=memory
    )
    memory.observe(opened.sight, None, NOON, poll=False, all_reads=False)
    for row in ("legacy one", "tasks by id", "tasks search"):
        _, outcomes, _ = interpret(
            row, status=200, body=envelope(task(row, "failed", message="why", task_status_msg="why")), memory=memory
        )
        draft = outcomes[0].draft
        assert (draft.event_type, draft.correlation_id) == ("video_generation_failed", intent.event_id)
        assert (draft.metadata["generation"], draft.metadata["model"]) == ("new", "kling-3.0")
        assert draft.metadata["provider_message"] == ToCommit("why")


@pytest.mark.parametrize(
    "external,correlation",
    [
        (EXTERNAL, EXTERNAL),
        ("mine-7", end_event_id("o", TASK, "succeeded")),
        (None, end_event_id("o", TASK, "succeeded")),
    ],
)
def test_an_unknown_task_is_joined_by_ids(external, correlation):
    """A process that does not know the task uses the caller's id if it is a UUID, else the id of its end."""
    body = envelope([{"id": TASK, "status": "processing", "external_id": external}])
    _, outcomes, _ = interpret("tasks by id", status=200, body=body)
    assert outcomes[0].draft.correlation_id == outcomes[0].sight.correlation_id == correlation


@pytest.mark.parametrize("status", ["submitted", "processing", "succeeded", "failed"])
def test_a_lost_create_is_found_again(status):
    """The task of an ambiguous create, when it is seen, gets the start that nobody saw, then its state."""
    memory = Memory("o")
    memory.leave_unresolved(
        EXTERNAL, {"product": "video", "generation": "new", "model": "kling-3.0", "action": "text_to_video"}
    )
    body = envelope([{"id": TASK, "status": status, "external_id": EXTERNAL}])
    _, outcomes, _ = interpret("tasks by id", status=200, body=body, memory=memory)
    start = outcomes[0].draft
    assert (start.event_type, start.outcome, start.resource_id) == ("video_generation_started", "success", TASK)
    assert (start.action, start.correlation_id) == ("text_to_video", EXTERNAL)
    ends = {"succeeded": ["video_generation_completed"], "failed": ["video_generation_failed"]}.get(status, [])
    assert [outcome.draft.event_type for outcome in outcomes[1:]] == ends


def test_a_resent_create_that_exists_is_not_a_failure():
    """A second sending is refused because the first took effect; a first one because the caller's id is taken."""
    sent = json.dumps({"prompt": "a", "options": {"external_task_id": EXTERNAL}}).encode()
    ending = {"status": 400, "body": envelope(code=1201, message=f"External_task_id {EXTERNAL} already exists")}
    _, outcomes, _ = interpret("new create", order=sent, extra={"resend_of": EXTERNAL}, **ending)
    assert told(outcomes) == [("video_generation_started", "unknown")]
    assert outcomes[0].draft.metadata["duplicate"] is True
    _, outcomes, _ = interpret("new create", order=sent, **ending)
    assert told(outcomes) == [("video_generation_failed", "failure")]


def test_the_end_states_results_and_charge():
    """Result ids, durations and deductions as Kling states them; links stay out."""
    body = envelope(
        {
            "task_id": TASK,
            "task_status": "succeed",
            "task_result": {"videos": [{"id": "v1", "url": "https://cdn/x.mp4?t=1", "duration": "5.041"}]},
            "final_unit_deduction": "2.4",
            "created_at": 1781080778802,
        }
    )
    _, (end,), _ = interpret("legacy one", status=200, body=body)
    metadata = end.draft.metadata
    assert metadata["results"] == [{"kind": "video", "id": "v1", "duration": "5.041"}]
    assert metadata["charge"] == [{"charge_type": "unit", "amount": "2.4", "package_type": "video"}]
    assert metadata["provider_created_at"] == "2026-06-10T08:39:38.802000Z"
    assert "https" not in str(metadata)
    assert list(end.sight.links) == [("https://cdn/x.mp4?t=1", "v1")]


def test_a_list_of_many():
    """Ends of all tasks, states of known ones, nothing for strangers' running tasks, and the list itself."""
    memory = Memory("o")
    _, (opened,), _ = interpret(
        "new create", status=200, body=envelope(task("new create", "submitted", "1")), memory=memory
    )
    memory.observe(opened.sight, None, NOON, poll=False, all_reads=False)
    tasks = [
        {"id": name, "status": status}
        for name, status in [("1", "processing"), ("2", "processing"), ("3", "failed"), ("4", "succeeded")]
    ]
    body = envelope({"result": tasks, "count": 4, "has_more": False})
    _, outcomes, _ = interpret("tasks search", status=200, body=body, memory=memory)
    assert [(str(outcome.draft.event_type), outcome.draft.resource_id) for outcome in outcomes] == [
        ("task_status_changed", "1"),
        ("task_completed", "3"),
        ("task_completed", "4"),
        ("resource_read", None),
    ]
    assert outcomes[-1].draft.metadata["tasks"] == 4


def test_tasks_of_someone_elses_server_are_not_klings():
    """`/tasks` on a foreign host is nothing to us unless the reply has Kling's envelope."""
    request = ("GET", "https://todo.example/tasks")
    _, outcomes, _ = interpret(request, status=200, body=b'[{"id":1}]')
    assert outcomes == []
    _, outcomes, _ = interpret(request, status=200, body=envelope([{"id": TASK, "status": "processing"}]))
    assert told(outcomes) == [("task_status_changed", "success")]


def test_results_are_recognised_by_their_links():
    """A download from any host is one if a task's record named its link."""
    memory = Memory("o")
    body = envelope(
        task("legacy one", "succeeded", task_result={"videos": [{"id": "v1", "url": "https://x.example/1"}]})
    )
    _, (end,), _ = interpret("legacy one", status=200, body=body, memory=memory)
    assert PROVIDER.classify("GET", "https://x.example/1", memory) is None
    memory.observe(end.sight, None, NOON, poll=True, all_reads=False)
    operation = PROVIDER.classify("GET", "https://x.example/1", memory)
    assert (operation.kind, operation.thing, operation.part) == ("download", TASK, "v1")


@pytest.mark.parametrize(
    "url,medium",
    [
        ("https://cdn.klingai.com/a.mp4", "video"),
        ("https://cdn.klingai.com/a.PNG?x", "image"),
        ("https://cdn.klingai.com/a.mp3", "audio"),
    ],
)
def test_downloads_name_their_medium(url, medium):
    """The file's name tells the medium; the link itself is committed."""
    media = Media(sha256="0" * 64, bytes=3, type="video/mp4", complete=True)
    intent, (outcome,), _ = interpret(("GET", url), status=200, media=media)
    assert (intent.event_type, intent.outcome, intent.metadata["url"]) == (
        f"{medium}_downloaded",
        "unknown",
        ToCommit(url),
    )
    assert (outcome.draft.event_type, outcome.draft.outcome) == (f"{medium}_downloaded", "success")
    assert outcome.draft.metadata["sha256"] == "0" * 64


@pytest.mark.parametrize("url", ["http://[bad/", "", "not a url", "https://", "//x"])
def test_odd_urls_are_not_ours(url):
    """What is no URL is the library's to refuse."""
    assert PROVIDER.classify("GET", url, Memory("o")) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "prompt",
        "negative_prompt",
        "settings",
        "options",
        "duration",
        "mode",
        "external_task_id",
        "contents",
        "multi_prompt",
        "model_name",
        "callback_url",
        "camera_control",
        "config",
        "watermark_info",
        "image",
        "x",
    ]
)
bodies = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(fields, json_values | st.dictionaries(fields, json_values, max_size=5), max_size=6).map(
        lambda value: json.dumps(value).encode("utf-8", "surrogatepass")
    ),
)


@given(st.sampled_from(["new create", "legacy create", "unknown write", "tasks search"]), bodies)
def test_no_request_is_too_odd(row, sent):
    """Any body has an intent, and no text of it stands there in the clear beyond what a setting looks like."""
    intent, outcomes, _ = interpret(row, order=sent, status=200, body=b"")
    assert len(outcomes) == 1
    json.dumps(dict(intent.metadata), default=lambda value: "committed" if isinstance(value, ToCommit) else 1 / 0)


def test_content_is_committed_and_settings_kept():
    """Prompts, shots and callback URLs are commitments; settings stay readable; strange values in them do not."""
    sent = json.dumps(
        {
            "model_name": "kling-v3",
            "prompt": "a lake",
            "negative_prompt": "blur",
            "multi_prompt": [{"index": 1, "prompt": "one", "duration": "3"}],
            "mode": "pro",
            "sound": "on",
            "duration": "5",
            "cfg_scale": 0.5,
            "aspect_ratio": "Call me at user@example.com, it is urgent, please do so at once, thanks!",
            "camera_control": {"type": "simple", "config": {"zoom": 3}},
            "callback_url": "https://hooks.example/?t=1",
            "external_task_id": "mine-1",
            "image": "base64",
            "secret sauce": 1,
        }
    ).encode()
    intent, _, _ = interpret("legacy create", order=sent, status=200, body=b"")
    said = intent.metadata
    assert intent.event_type == "prompt_submitted"
    assert (said["prompt"], said["negative_prompt"]) == (ToCommit("a lake"), ToCommit("blur"))
    assert said["multi_prompt"] == ToCommit(b'[{"index":1,"prompt":"one","duration":"3"}]')
    assert said["callback_url"] == ToCommit("https://hooks.example/?t=1")
    ratio = said["settings"].pop("aspect_ratio")
    assert isinstance(ratio, ToCommit)
    assert said["settings"] == {
        "mode": "pro",
        "sound": "on",
        "cfg_scale": 0.5,
        "duration": "5",
        "camera": "simple",
        "camera_moves": {"zoom": 3},
    }
    assert (said["model"], said["external_task_id"], said["generation"]) == ("kling-v3", "mine-1", "legacy")
    assert said["other_fields"] == ["image"]


@pytest.mark.parametrize(
    "sent,expected",
    [
        (b'{"prompt":"x"}', "prompt_submitted"),
        (b'{"contents":[{"type":"prompt","text":"x"}]}', "prompt_submitted"),
        (b'{"contents":[{"type":"first_frame","url":"x"}]}', "task_submitted"),
        (b'{"prompt":""}', "task_submitted"),
        (b"{}", "task_submitted"),
        (b"not json", "task_submitted"),
        (None, "task_submitted"),
    ],
)
def test_an_intent_with_a_prompt_is_a_prompt(sent, expected):
    """14.3: prompt_submitted with a prompt, task_submitted for other paid calls."""
    intent, _, _ = interpret("unknown write", order=sent, status=200, body=b"")
    assert (intent.event_type, intent.metadata["phase"], intent.metadata["deadline_s"]) == (expected, "intent", 300)
