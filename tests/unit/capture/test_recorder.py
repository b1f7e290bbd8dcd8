"""Intent before the act, an outcome for every end, and what happens when the log cannot write."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import http.client
import os
import ssl
import threading
import warnings

import pytest
import requests
import urllib3

from klingai_audit.capture.attempt import Mark, was_sent
from klingai_audit.capture.desk import UnrecordedWarning
from klingai_audit.capture.facts import RequestFacts
from klingai_audit.capture.recorder import Recorder
from klingai_audit.errors import ActorConflict, AuditUnavailable, InvalidEvent
from klingai_audit.event.context import acting
from klingai_audit.event.record import is_event_id
from tests.unit.capture.doubles import make_recorder

CREATE = "https://api-singapore.klingai.com/text-to-video/kling-3.0-turbo"
QUERY = "https://api-singapore.klingai.com/v1/videos/text2video/123456789012345678"
ACCEPTED = b'{"code":0,"message":"SUCCEED","request_id":"r-1","data":{"id":"700000000000000001","status":"submitted"}}'
PROCESSING = (
    b'{"code":0,"message":"SUCCEED","request_id":"r-2",'
    b'"data":{"task_id":"700000000000000001","task_status":"processing"}}'
)
NOON = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
WARN = '[failure]\npaid_create = "warn"\n'


def create_facts(**more) -> RequestFacts:
    """Return the facts of a create call."""
    return RequestFacts(
        method="POST", url=CREATE, body=b'{"prompt":"a lake"}', headers={"authorization": "Bearer key-of-alice"}, **more
    )


def query_facts() -> RequestFacts:
    """Return the facts of a poll."""
    return RequestFacts(method="GET", url=QUERY.replace("123456789012345678", "700000000000000001"))


def begin(recorder: Recorder, facts: RequestFacts, how: str, **more):
    """Begin in a thread's or a coroutine's way."""
    if how == "sync":
        return recorder.begin(facts, **more)
    return asyncio.run(recorder.abegin(facts, **more))


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
def test_the_life_of_a_call(how):
    """Intent when `begin` returns, then the key's use and the outcome, joined by the intent's id."""
    recorder, sink = make_recorder()
    attempt = begin(recorder, create_facts(), how)
    assert sink.story == [("prompt_submitted", "success")]
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    assert sink.types == ["prompt_submitted", "api_key_used", "video_generation_started"]
    intent, key, started = sink.drafts
    assert {draft.correlation_id for draft in sink.drafts} == {intent.event_id}
    assert intent.metadata["phase"] == "intent"
    assert intent.metadata["deadline_s"] == 300
    assert started.metadata["intent"] == intent.event_id
    assert (started.resource_id, started.request_id) == ("700000000000000001", "r-1")
    assert key.resource_id == sink.fingerprint("key-of-alice") == intent.metadata["key_fingerprint"]
    assert all(is_event_id(draft.event_id) and draft.timestamp is not None for draft in sink.drafts)


@both
@pytest.mark.parametrize("at_once", [True, False])
def test_what_cannot_be_recorded_is_refused(how, at_once):
    """Policy refuse: AuditUnavailable with what to do, chained to the cause, nothing written later."""
    recorder, sink = make_recorder()
    sink.at_once = at_once
    sink.break_down()
    with pytest.raises(AuditUnavailable) as caught:
        begin(recorder, create_facts(), how)
    assert caught.value.do == "Free space."
    assert "not sent" in caught.value.message
    assert isinstance(caught.value.__cause__, AuditUnavailable)
    sink.repair()
    begin(recorder, create_facts(), how)
    assert sink.types == ["prompt_submitted"]
    assert sink.own == []


@both
def test_an_unexpected_error_of_the_log_refuses_too(how):
    """Whatever goes wrong inside the log, a paid call does not happen unrecorded."""
    recorder, sink = make_recorder()
    sink.fail = lambda entry: RuntimeError("a defect")
    with pytest.raises(AuditUnavailable):
        begin(recorder, create_facts(), how)


@both
def test_policy_warn_lets_the_act_happen_and_reports_the_gap(how):
    """Policy warn: the act goes on, counted; when writing works again the count and the late entries come first."""
    recorder, sink = make_recorder(WARN)
    sink.break_down()
    with pytest.warns(UnrecordedWarning):
        attempt = begin(recorder, create_facts(), how)
    assert recorder.outstanding == 1
    sink.repair()
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    begin(recorder, create_facts(), how)
    assert sink.types == ["api_key_used", "video_generation_started", "prompt_submitted", "prompt_submitted"]
    ((own, facts),) = sink.own
    assert own == "gap_closed"
    assert {name: facts[name] for name in ("late", "lost", "classes")} == {
        "late": 1,
        "lost": 0,
        "classes": {"paid_create": 1},
    }
    assert recorder.outstanding == 0


@both
def test_an_outcome_that_cannot_be_written_is_kept_and_the_next_act_refused(how):
    """The provider's answer reaches the caller, loudly; the outcome is written before anything else happens."""
    recorder, sink = make_recorder()
    attempt = begin(recorder, create_facts(), how)
    sink.break_down()
    with pytest.warns(UnrecordedWarning):
        attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    assert recorder.outstanding == 2
    with pytest.raises(AuditUnavailable, match="not yet written: 2"):
        begin(recorder, create_facts(), how)
    with pytest.raises(AuditUnavailable, match="could not be written: 2"):
        recorder.close()
    sink.repair()
    begin(recorder, create_facts(), how)
    assert sink.types == ["prompt_submitted", "api_key_used", "video_generation_started", "prompt_submitted"]
    assert [name for name, _ in sink.own] == ["gap_closed"]
    recorder.close()


def test_a_gap_is_reported_once_however_often_writing_fails():
    """Attempts to catch up that fail leave the counts as they are."""
    recorder, sink = make_recorder(WARN)
    sink.break_down()
    with pytest.warns(UnrecordedWarning):
        recorder.begin(create_facts())
    for _ in range(3):
        recorder.desk.catch_up()
    sink.repair()
    recorder.desk.catch_up()
    assert [facts["late"] for _, facts in sink.own] == [1]
    assert sink.types == ["prompt_submitted"]


def test_an_error_filter_does_not_lose_the_answer():
    """With -W error the warning becomes no exception that would hide what the provider said."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    sink.break_down()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    assert recorder.outstanding == 2


def test_an_entry_that_the_log_refuses_is_reduced():
    """An outcome whose content is at fault is written without it rather than not at all."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    sink.fail = lambda entry: (
        InvalidEvent("too much") if "http_status" in entry.metadata and "model" in entry.metadata else None
    )
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    recorder.desk.catch_up()
    assert sink.types[-1] == "video_generation_started"
    assert sink.drafts[-1].metadata["reduced"] == "InvalidEvent"
    assert sink.drafts[-1].resource_id == "700000000000000001"


def test_a_conflicting_actor_is_the_callers_error():
    """A call in contradiction to the context is refused as such, even under policy warn."""
    recorder, sink = make_recorder(WARN)
    sink.fail = lambda entry: ActorConflict("another actor")
    with pytest.raises(ActorConflict):
        recorder.begin(create_facts())
    assert recorder.outstanding == 0


@both
@pytest.mark.parametrize(
    "error,expected",
    [
        ("ConnectError", ("video_generation_failed", "failure")),
        ("ReadTimeout", ("video_generation_started", "unknown")),
        ("CancelledError", ("video_generation_started", "unknown")),
        ("KeyboardInterrupt", ("video_generation_started", "unknown")),
    ],
)
def test_every_failure_has_an_outcome(how, error, expected):
    """Not sent is a failure; sent without an answer is unknown, cancellation and interrupts included."""
    recorder, sink = make_recorder()
    attempt = begin(recorder, create_facts(), how)
    bases = {"CancelledError": asyncio.CancelledError, "KeyboardInterrupt": KeyboardInterrupt}
    exc = bases.get(error, type(error, (Exception,), {}))()
    attempt.failed(exc)
    recorder.desk.catch_up()
    assert sink.story[1:] == [expected]
    assert sink.drafts[-1].metadata["error"] == error


def test_an_attempt_ends_once():
    """What comes after the end is ignored."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    attempt.failed(ValueError())
    attempt.finished(attempt.reply(500, {}, body=b""))
    assert sink.types == ["prompt_submitted", "api_key_used", "video_generation_started"]


@both
def test_an_interrupt_while_the_intent_is_written_ends_the_act(how):
    """Interrupted before sending: the exception passes, and the log says that nothing was sent."""
    recorder, sink = make_recorder()
    sink.fail = lambda entry: KeyboardInterrupt() if entry.event_type == "prompt_submitted" else None
    with pytest.raises(KeyboardInterrupt):
        begin(recorder, create_facts(), how)
    assert sink.story == [("video_generation_failed", "failure")]
    assert sink.drafts[0].metadata["sent"] is False


def test_reads_leave_no_intent_and_unchanged_ones_no_entry():
    """Polls are silent until something changes; the change tells how many there were."""
    recorder, sink = make_recorder()
    for _ in range(3):
        attempt = recorder.begin(query_facts())
        assert attempt is not None
        attempt.finished(attempt.reply(200, {}, body=PROCESSING))
    attempt = recorder.begin(query_facts())
    attempt.finished(attempt.reply(200, {}, body=PROCESSING.replace(b"processing", b"failed")))
    assert sink.story == [("task_status_changed", "success"), ("video_generation_failed", "failure")]
    assert sink.drafts[1].metadata["polls"] == 2


def test_record_reads_all_writes_every_poll():
    """Policy record_reads = "all"."""
    recorder, sink = make_recorder('[privacy]\nrecord_reads = "all"\n')
    for _ in range(3):
        attempt = recorder.begin(query_facts())
        attempt.finished(attempt.reply(200, {}, body=PROCESSING))
    assert sink.types == ["task_status_changed"] * 3


def test_the_end_belongs_to_who_ordered():
    """Whoever polls, status and end of a known task are entries of the one who created it."""
    recorder, sink = make_recorder()
    with acting("alice"):
        attempt = recorder.begin(create_facts())
        attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    with acting("bob"):
        poll = recorder.begin(query_facts())
        poll.finished(poll.reply(200, {}, body=PROCESSING.replace(b"processing", b"succeed")))
    assert [draft.actor_id for draft in sink.drafts] == ["alice"] * 4
    assert len({draft.correlation_id for draft in sink.drafts}) == 1


def test_an_outcome_keeps_its_actor_in_another_thread():
    """The reply may be read elsewhere: who acts was bound when the act began."""
    recorder, sink = make_recorder()
    with acting("alice", team="studio-a"):
        attempt = recorder.begin(create_facts())
    reply = attempt.reply(200, {}, body=ACCEPTED)
    thread = threading.Thread(target=attempt.finished, args=(reply,))
    thread.start()
    thread.join()
    assert {(draft.actor_id, draft.team) for draft in sink.drafts} == {("alice", "studio-a")}


def test_a_key_is_used_once_an_hour():
    """Per key, process and hour there is one api_key_used; a refused key has none."""
    recorder, sink = make_recorder()
    for minute in (0, 30, 59, 60):
        when = NOON + dt.timedelta(minutes=minute)
        attempt = recorder.begin(create_facts(started=when))
        attempt.finished(dataclasses.replace(attempt.reply(200, {}, body=ACCEPTED), finished=when))
    refused = recorder.begin(create_facts(authorization="Bearer wrong-key"))
    refused.finished(refused.reply(401, {}, body=b'{"code":1002,"message":"no","request_id":"r"}'))
    assert sink.types.count("api_key_used") == 2
    assert sink.story[-1] == ("access_denied", "blocked")


def test_an_inner_capture_of_the_same_act_adds_its_facts():
    """Nested capture makes one record, ended by the inner one's end; another act inside is its own."""
    recorder, sink = make_recorder()
    outer = recorder.begin(create_facts())
    with outer.covering():
        inner = recorder.begin(create_facts())
        inner.finished(inner.reply(200, {}, body=ACCEPTED))
        poll = recorder.begin(query_facts())
        poll.finished(poll.reply(200, {}, body=PROCESSING))
    outer.finished(outer.reply(599, {}, body=None))
    assert sink.story == [
        ("prompt_submitted", "success"),
        ("api_key_used", "success"),
        ("video_generation_started", "success"),
        ("task_status_changed", "success"),
    ]


def test_two_logs_each_get_their_record():
    """Captures for different logs do not swallow each other."""
    first, one = make_recorder()
    second, two = make_recorder()
    outer = first.begin(create_facts())
    with outer.covering():
        inner = second.begin(create_facts())
        inner.finished(inner.reply(200, {}, body=ACCEPTED))
    outer.finished(outer.reply(200, {}, body=ACCEPTED))
    assert one.types == two.types == ["prompt_submitted", "api_key_used", "video_generation_started"]


def test_marks_join_several_sendings_and_give_the_id_once():
    """The caller's event id is used for the first sending only, so that no id occurs twice."""
    recorder, sink = make_recorder()
    mark = Mark(event_id="01a20014-3398-77f1-87a9-48d02febd02d", correlation_id="01a20014-3398-77f1-87a9-48d02febd02d")
    for _ in range(2):
        recorder.begin(create_facts(), mark=mark)
    first, second = sink.drafts
    assert first.event_id == "01a20014-3398-77f1-87a9-48d02febd02d" != second.event_id
    assert first.correlation_id == second.correlation_id == first.event_id


def test_an_interpreter_that_fails_makes_no_act_silent(monkeypatch):
    """A defect in the provider's interpreter ends as an entry with outcome unknown."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    monkeypatch.setattr(recorder, "provider", object())
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    assert sink.story == [("prompt_submitted", "success"), ("task_submitted", "unknown")]
    assert sink.drafts[-1].metadata["error"] == "AttributeError"


def test_close_ends_what_is_open():
    """An answer that nobody read to its end is written as unknown when the recorder is closed."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    attempt.left_open()
    recorder.close()
    assert sink.story == [("prompt_submitted", "success"), ("video_generation_started", "unknown")]
    assert sink.drafts[-1].metadata["error"] == "NeverEnded"


def test_requests_of_others_pass():
    """A request that is not the provider's is no attempt."""
    recorder, sink = make_recorder()
    assert recorder.begin(RequestFacts(method="GET", url="https://example.com/tasks-list")) is None
    assert sink.drafts == []


def test_a_forked_child_starts_clean():
    """What the parent has open is not the child's to write; the child's own use of a key is its own entry."""
    recorder, sink = make_recorder()
    attempt = recorder.begin(create_facts())
    attempt.finished(attempt.reply(200, {}, body=ACCEPTED))
    pending = recorder.begin(create_facts())
    pending.left_open()
    sink.drafts.clear()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            recorder.close()
            fresh = recorder.begin(create_facts())
            fresh.finished(fresh.reply(200, {}, body=ACCEPTED))
            os.write(writing, ",".join(sink.types).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert os.read(reading, 4096).decode() == "prompt_submitted,api_key_used,video_generation_started"
    os.close(reading)


@pytest.mark.parametrize(
    "name,expected",
    [("ConnectError", False), ("ConnectTimeout", False), ("PoolTimeout", False), ("ReadTimeout", True), ("X", True)],
)
def test_what_may_have_left(name, expected):
    """Only failures before the first byte count as not sent, subclasses included."""
    base = type(name, (Exception,), {})
    assert was_sent(type("Derived", (base,), {})()) is expected


@pytest.mark.parametrize(
    "reason,expected",
    [
        (http.client.RemoteDisconnected("closed"), True),
        (ConnectionResetError(104, "reset"), True),
        (OSError("Tunnel connection failed: 403 Forbidden"), False),
        (urllib3.exceptions.NewConnectionError(None, "refused"), False),
        (urllib3.exceptions.ConnectTimeoutError(None, "slow"), False),
        (urllib3.exceptions.SSLError(ssl.SSLCertVerificationError("unknown authority")), False),
        (urllib3.exceptions.SSLError(ssl.SSLEOFError("ended")), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_urllib3_says_of_a_proxy(reason, expected):
    """Its ProxyError proves nothing; the reason inside does, or does not."""
    behind = urllib3.exceptions.ProxyError("Unable to connect to proxy", reason)
    tried = urllib3.exceptions.MaxRetryError(None, "/", behind)
    assert was_sent(requests.exceptions.ProxyError(tried)) is expected
