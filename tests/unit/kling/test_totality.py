"""The whole endpoint table × every way to end → event types. What is expected is written by class, not asked back."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from klingai_audit.capture.facts import Exchange, Media, Operation, RequestFacts, Sight
from klingai_audit.capture.memory import Memory
from klingai_audit.event.record import end_event_id, new_event_id
from klingai_audit.event.types import EVENT_TYPES
from klingai_audit.kling.catalogue import Match
from klingai_audit.kling.endpoints import (
    CALLBACK,
    CLAIM,
    DELETE_FILE,
    DOWNLOAD,
    ROWS,
    UNKNOWN_DELETE,
    UNKNOWN_READ,
    UNKNOWN_WRITE,
)
from klingai_audit.kling.errors import CODES
from klingai_audit.kling.meaning import PROVIDER
from klingai_audit.privacy.commitment import ToCommit

HOST = "https://api-singapore.klingai.com"
TASK = "831045678901234567"
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
EVERYTHING = (*ROWS, DOWNLOAD, DELETE_FILE, UNKNOWN_READ, UNKNOWN_WRITE, UNKNOWN_DELETE)

rows = pytest.mark.parametrize("row", EVERYTHING, ids=lambda row: f"{row.method} {row.path or row.action or row.kind}")

BLOCKED = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1103, 1304), ("access_denied", "blocked")),
    **dict.fromkeys((1300, 1301), ("policy_violation", "blocked")),
    **dict.fromkeys((1302, 1303), ("rate_limit_exceeded", "blocked")),
}
MEDIA = ("video", "image", "audio")


def begun(row) -> str:
    """Return the type of the entry that a paid call took effect."""
    return f"{row.product}_generation_started" if row.product in MEDIA else "task_submitted"


def ended(row, *, well: bool) -> str:
    """Return the type of the entry of an end."""
    if row.product in MEDIA:
        return f"{row.product}_generation_{'completed' if well else 'failed'}"
    return "resource_created" if row.product in ("voice", "element") else "task_completed"


def failed(row) -> tuple[str, str]:
    """Return what a refusal without a type of its own is."""
    return {
        "paid_create": (ended(row, well=False), "failure"),
        "paid_sync": (ended(row, well=False), "failure"),
        "read": ("quota_checked" if row.product == "account" else "resource_read", "failure"),
        "destructive": ("resource_deleted", "failure"),
    }[row.kind]


def unclear(row, *, lost: bool) -> tuple[str, str]:
    """Return what an ending without a usable answer is; `lost`: there was none at all."""
    if row.kind in ("paid_create", "paid_sync"):
        return begun(row), "unknown"
    if row.kind == "destructive":
        return "resource_deleted", "unknown"
    return failed(row)[0], "unknown" if lost else "failure"


def interpret(row, *, memory=None, body=b'{"prompt":"a lake"}', operation=None, extra=None, answer=None, **ending):
    """Interpret one ending of a row; returns the intent, the outcomes and the use of the key."""
    held = memory or Memory("o")
    method = {"*": "GET" if row is UNKNOWN_READ else "POST"}.get(row.method, row.method)
    path = row.path.replace("{model}", "kling-9").replace("{id}", TASK) or "/v1/new/things"
    url = "https://cdn.klingai.com/a.mp4" if row.reply == "file" else HOST + path
    operation = operation or (None if row is DELETE_FILE else PROVIDER.classify(method, url, held))
    operation = operation or operation_of(row)
    request = RequestFacts(
        method=method, url=url, body=body, credential={"kind": "api_key", "fingerprint": "f" * 16}, started=NOON
    )
    intent = PROVIDER.intent(operation, request, new_event_id(), extra or {})
    event_id = new_event_id()
    intent = intent.replace(event_id=event_id, correlation_id=intent.correlation_id or event_id)
    exchange = Exchange(request=request, body=answer, finished=NOON + dt.timedelta(seconds=1), **ending)
    outcomes = PROVIDER.outcome(operation, exchange, intent, held)
    assert all(str(outcome.draft.event_type) in EVENT_TYPES for outcome in outcomes)
    return intent, outcomes, PROVIDER.key_used(operation, exchange, intent)


def operation_of(row):
    """Return the operation of a row that no URL names."""
    return Operation(name=row.action, kind=row.kind, row=Match(row, row.action))


def envelope(data=None, code=0, message="SUCCEED") -> bytes:
    """Return an envelope as bytes."""
    return json.dumps({"code": code, "message": message, "request_id": "r-1", "data": data}).encode()


def record(row, status: str, **more) -> dict:
    """Return a task record in the row's generation."""
    if row.generation == "new":
        return {"id": TASK, "status": status, **more}
    return {"task_id": TASK, "task_status": {"succeeded": "succeed"}.get(status, status), **more}


def told(outcomes) -> list[tuple[str, str]]:
    """Return event types and outcomes."""
    return [(str(outcome.draft.event_type), outcome.draft.outcome) for outcome in outcomes]


@rows
def test_every_code_has_one_entry(row):
    """Limits, policy and access have types of their own; account and request errors fail; server errors leave open."""
    if row.reply == "file":
        return
    for code, info in CODES.items():
        _, outcomes, _ = interpret(row, status=info.http_status, answer=envelope(code=code, message="no"))
        expected = unclear(row, lost=False) if code >= 5000 else BLOCKED.get(code) or failed(row)
        assert told(outcomes) == [expected], code
        assert outcomes[0].draft.metadata["code"] == code
        assert outcomes[0].draft.metadata["provider_message"] == ToCommit("no")


ENDINGS = {
    "broke off": {"status": 200, "error": "ReadError"},
    "too long": {"status": 200, "truncated": True},
    "empty": {"status": 200, "answer": b""},
    "html": {"status": 200, "answer": b"<html>"},
    "gateway": {"status": 502, "answer": b"Bad Gateway"},
    "redirect": {"status": 302, "answer": b""},
    "contradiction": {"status": 500, "answer": envelope({})},
}


@rows
def test_every_broken_ending_has_one_entry(row):
    """What was sent without a usable answer is unknown wherever it may have changed something."""
    if row.reply == "file":
        return
    for name, ending in ENDINGS.items():
        _, outcomes, _ = interpret(row, **ending)
        assert told(outcomes) == [unclear(row, lost=False)], name
    assert told(interpret(row, error="ReadTimeout")[1]) == [unclear(row, lost=True)]
    assert told(interpret(row, error="ConnectError", sent=False)[1]) == [failed(row)]
    for status, expected in ((401, BLOCKED[1000]), (403, BLOCKED[1000]), (429, BLOCKED[1302]), (404, failed(row))):
        _, outcomes, key = interpret(row, status=status, answer=b"")
        assert told(outcomes) == [expected]
        assert (key is None) is (status == 401)


@rows
def test_every_intent(row):
    """Reads announce nothing; whatever costs, deletes or fetches says so first, with a deadline."""
    draft, _, _ = interpret(row, error="x")
    if row.kind == "read":
        assert "phase" not in draft.metadata
        return
    expected = {
        "download": ("video_downloaded", "unknown"),
        "destructive": ("video_deleted" if row is DELETE_FILE else "resource_deleted", "unknown"),
    }.get(row.kind, ("prompt_submitted" if "prompt" in draft.metadata else "task_submitted", "success"))
    assert (str(draft.event_type), draft.outcome) == expected
    assert (draft.metadata["phase"], draft.metadata["deadline_s"] >= 300) == ("intent", True)


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "paid_create"], ids=lambda row: row.path)
def test_every_create(row):
    """Accepted: one entry that names the task; ended at once: the end too; no task in the answer: unknown."""
    intent, outcomes, key = interpret(row, status=200, answer=envelope(record(row, "submitted")))
    assert told(outcomes) == [(begun(row), "success")]
    draft, sight = outcomes[0].draft, outcomes[0].sight
    assert (draft.resource_type, draft.resource_id, draft.request_id) == (row.product, TASK, "r-1")
    assert (draft.metadata["intent"], draft.metadata["generation"]) == (intent.event_id, row.generation)
    assert (sight.thing, sight.opens, sight.shared, sight.note["product"]) == (TASK, True, True, row.product)
    assert (str(key.event_type), key.resource_id) == ("api_key_used", "f" * 16)
    for status in ("succeeded", "failed"):
        _, outcomes, _ = interpret(row, status=200, answer=envelope(record(row, status)))
        well = status == "succeeded"
        assert told(outcomes) == [(begun(row), "success"), (ended(row, well=well), "success" if well else "failure")]
        assert outcomes[1].draft.event_id == end_event_id("o", TASK, status)
        assert outcomes[1].once
    for data in (None, {}, [], {"task_id": {}}, "x"):
        _, outcomes, _ = interpret(row, status=200, answer=envelope(data))
        assert told(outcomes) == [(begun(row), "unknown")]


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "paid_sync"], ids=lambda row: row.path)
def test_every_synchronous_call(row):
    """The answer is the end, with the charge in it; with a task id it is the end that `/tasks` would show, too."""
    charged = {"final_unit_deduction": "0.05", "session_id": "s"}
    _, outcomes, _ = interpret(row, status=200, answer=envelope(charged))
    assert told(outcomes) == [(ended(row, well=True), "success")]
    pack = {"audio": {"package_type": "video"}, "element": {"package_type": "video"}}.get(row.product, {})
    assert outcomes[0].draft.metadata["charge"] == [{"charge_type": "unit", "amount": "0.05", **pack}]
    assert (outcomes[0].once, outcomes[0].draft.event_id) == (False, None)
    _, outcomes, _ = interpret(row, status=200, answer=envelope({**record(row, "succeeded"), **charged}))
    assert told(outcomes) == [(ended(row, well=True), "success")]
    assert (outcomes[0].once, outcomes[0].draft.event_id) == (True, end_event_id("o", TASK, "succeeded"))
    _, outcomes, _ = interpret(row, status=200, answer=envelope(record(row, "failed")))
    assert told(outcomes) == [(ended(row, well=False), "failure")]
    _, outcomes, _ = interpret(row, status=200, answer=envelope(record(row, "processing")))
    assert told(outcomes) == [(begun(row), "success")]
    assert told(interpret(row, status=200, answer=envelope())[1]) == [(ended(row, well=True), "success")]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.kind == "read" and row.reply in ("task", "tasks", "page")], ids=lambda r: r.path
)
def test_every_query(row):
    """A status or the end, as the product that is known; a list leaves an entry of its own, too."""
    listing = row.reply == "page" or (row.reply == "tasks" and row.generation == "legacy")
    own = [("resource_read", "success")] if listing else []
    for status in ("submitted", "processing", "succeeded", "failed", "odd"):
        item = record(row, status)
        data = {"task": item, "tasks": [item], "page": {"result": [item]}}[row.reply]
        _, outcomes, _ = interpret(row, status=200, answer=envelope(data))
        if status in ("succeeded", "failed"):
            well = status == "succeeded"
            assert told(outcomes) == [(ended(row, well=well), "success" if well else "failure"), *own]
            assert outcomes[0].draft.event_id == end_event_id("o", TASK, status)
        else:
            assert told(outcomes) == ([] if listing else [("task_status_changed", "success")]) + own


@pytest.mark.parametrize("row", [row for row in ROWS if row.kind == "destructive"], ids=lambda row: row.path)
def test_every_deletion(row):
    """Announced and told as the deletion of that voice or element; nothing in the answer makes it a task's end."""
    sent = json.dumps({row.addresses: 857}).encode()
    intent, outcomes, _ = interpret(row, body=sent, status=200, answer=envelope(record(row, "succeeded")))
    assert (str(intent.event_type), intent.outcome, intent.resource_id) == ("resource_deleted", "unknown", "857")
    assert told(outcomes) == [("resource_deleted", "success")]
    draft = outcomes[0].draft
    assert (draft.resource_type, draft.resource_id, draft.metadata["task_id"]) == (row.product, "857", TASK)
    assert outcomes[0].sight is None
    assert told(interpret(row, status=200, answer=envelope(record(row, "failed")))[1]) == [
        ("resource_deleted", "failure")
    ]


@pytest.mark.parametrize("path,found", [(f"/v1/new/things/{TASK}", TASK), ("/v1/new/things", None)])
def test_a_delete_that_no_row_names(path, found):
    """Announced and told as a deletion of something, under its path; never as an order that may cost."""
    operation = PROVIDER.classify("DELETE", HOST + path, Memory("o"))
    assert (operation.kind, operation.failure_class) == ("destructive", "delete")
    intent, outcomes, _ = interpret(UNKNOWN_DELETE, operation=operation, status=200, answer=envelope({}))
    assert (str(intent.event_type), intent.outcome, intent.metadata["phase"]) == (
        "resource_deleted",
        "unknown",
        "intent",
    )
    assert told(outcomes) == [("resource_deleted", "success")]
    draft = outcomes[0].draft
    assert (draft.resource_type, draft.resource_id, draft.action) == (
        "resource", found, path.replace(TASK, "{id}"),
    )  # fmt: skip
    assert (outcomes[0].sight, outcomes[0].unresolved) == (None, None)


@pytest.mark.parametrize("row", [row for row in ROWS if row.product == "account"], ids=lambda row: row.path)
def test_every_look_at_the_account(row):
    """Each is an entry with what was seen; an error inside the inner wrapping is an error."""
    packs = [{"resource_pack_id": "p1", "remaining_quantity": 12.5, "status": "online", "resource_pack_name": "x"}]
    data = {"code": 0, "resource_pack_subscribe_infos": packs, "result": {"detail": [{"task_id": "1"}], "count": 1}}
    _, outcomes, _ = interpret(row, status=200, answer=envelope(data))
    assert told(outcomes) == [("quota_checked", "success")]
    assert outcomes[0].sight is None
    seen = {
        "packs": {"packs": 1, "remaining": [{"id": "p1", "status": "online", "remaining": "12.5"}]},
        "ledger": {"deductions": 1, "more": False},
    }
    assert seen[row.reply].items() <= outcomes[0].draft.metadata.items()
    _, outcomes, _ = interpret(row, status=200, answer=envelope({"code": 1302, "msg": "slower"}))
    assert told(outcomes) == [("rate_limit_exceeded", "blocked")]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.reply == "any" and row.kind == "read"], ids=lambda row: row.path
)
def test_every_list_of_the_library(row):
    """Voices and elements that Kling offers are no tasks of ours; the list is news when its content is."""
    listed = [record(row, "succeeded", task_result={"voices": [{"voice_id": "1"}]})]
    _, first, _ = interpret(row, status=200, answer=envelope(listed))
    assert told(first) == [("resource_read", "success")]
    again = json.dumps({**json.loads(envelope(listed)), "request_id": "r-2"}).encode()
    assert interpret(row, status=200, answer=again)[1][0].sight.state == first[0].sight.state


def test_every_end_of_a_file():
    """Fetched whole, in part, or not at all; deleted, or not."""
    whole, part = (Media(sha256="0" * 64, bytes=1, complete=flag) for flag in (True, False))
    for ending, outcome in (
        ({"status": 200, "media": whole}, "success"),
        ({"status": 200, "media": part, "error": "ReadError"}, "failure"),
        ({"status": 404}, "failure"),
        ({"error": "ReadTimeout"}, "unknown"),
        ({"error": "ConnectError", "sent": False}, "failure"),
    ):
        assert told(interpret(DOWNLOAD, **ending)[1]) == [("video_downloaded", outcome)]
    gone = {"extra": {"sha256": "0" * 64}}
    _, outcomes, _ = interpret(DELETE_FILE, **gone)
    assert told(outcomes) == [("video_deleted", "success")]
    assert outcomes[0].draft.metadata["sha256"] == "0" * 64
    assert told(interpret(DELETE_FILE, **gone, error="PermissionError")[1]) == [("video_deleted", "failure")]


@pytest.mark.parametrize("status", ["submitted", "processing", "succeeded", "failed", "odd"])
@pytest.mark.parametrize("generation", ["legacy", "new"])
def test_every_callback(generation, status):
    """A signed one is a poll that Kling made; an unsigned one is a claim, never an end, and changes no memory."""
    row = next(row for row in ROWS if row.generation == generation)
    body = json.dumps(record(row, status, message="x", task_status_msg="x")).encode()
    memory = Memory("o")
    seen = Sight(thing=TASK, correlation_id="c", state="queued", note={"product": "image"})
    memory.observe(seen, None, NOON, poll=False, all_reads=False)
    _, outcomes, key = interpret(CALLBACK, operation=operation_of(CALLBACK), memory=memory, answer=body)
    ends = {"succeeded": ("image_generation_completed", "success"), "failed": ("image_generation_failed", "failure")}
    assert told(outcomes) == [ends.get(status, ("task_status_changed", "success"))]
    assert (outcomes[0].draft.correlation_id, outcomes[0].draft.metadata["via"], key) == ("c", "callback", None)
    _, outcomes, _ = interpret(
        CLAIM, operation=operation_of(CLAIM), memory=memory, answer=body, extra={"signature": "missing"}
    )
    assert told(outcomes) == [("task_status_changed", "unknown")]
    draft, sight = outcomes[0].draft, outcomes[0].sight
    assert (draft.metadata["claim"], draft.metadata["signature"]) == (True, "missing")
    assert (draft.metadata["status"], draft.resource_id, draft.correlation_id) == (status, TASK, "c")
    assert (sight.thing, sight.final) == (f"claim:{TASK}", False)


@pytest.mark.parametrize("row", [CALLBACK, CLAIM], ids=["callback", "claim"])
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"x", b'{"id":{}}'])
def test_a_callback_that_is_none(row, body):
    """What names no task is one entry that says so."""
    _, outcomes, _ = interpret(row, operation=operation_of(row), answer=body)
    assert told(outcomes) == [("task_status_changed", "unknown")]
    assert outcomes[0].draft.metadata["problem"] == "callback_not_read"


def test_the_table_has_every_endpoint_of_the_sheet(repository):
    """Each method and path that sections 2.1 to 2.6 name has one row, and no row comes from elsewhere."""
    pages = json.loads((repository / "tests/unit/kling/endpoints.json").read_text())
    found = [f"{row.method} {row.path}" for row in ROWS]
    assert sorted(found) == sorted(pages["endpoints"])
    assert len(set(found)) == len(found)
