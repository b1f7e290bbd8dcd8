"""What the client decides, driven by hand: no network, no waiting."""

from __future__ import annotations

import json

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling import errors, flows
from klingai_audit.kling.catalogue import LEGACY_TEXT_TO_VIDEO
from klingai_audit.kling.flows import Answer, Fetch, Pause, Retries, Send
from klingai_audit.kling.orders import Order, text_to_video_order
from klingai_audit.kling.products import product_order
from klingai_audit.kling.reply import Reply, TaskRecord

RETRIES = Retries(attempts=3, first=1.0, cap=2.0, random=lambda: 1.0)
TASK = "831045678901234567"


class ReadTimeout(Exception):
    """A time-out of the HTTP library."""


class ConnectError(Exception):
    """A failure before anything was sent."""


def ok(data) -> Answer:
    """Return a successful answer."""
    return Answer.of(200, json.dumps({"code": 0, "request_id": "r", "data": data}).encode())


def refused(code: int, status: int = 400, message: str = "no") -> Answer:
    """Return an error answer."""
    return Answer.of(status, json.dumps({"code": code, "message": message, "request_id": "r"}).encode())


LOST = Answer.failed(ReadTimeout())
NEW = {"id": TASK, "status": "submitted"}
GONE = ok([])


def drive(flow, *answers):
    """Send the answers in turn; returns steps without pauses, pauses, and the result or the exception."""
    steps, pauses, waiting = [], [], list(answers)
    answer = None
    try:
        while True:
            step = flow.send(answer)
            if isinstance(step, Pause):
                pauses.append(step.seconds)
                answer = None
            else:
                steps.append(step)
                answer = waiting.pop(0)
    except StopIteration as stop:
        result = stop.value
    except errors.KlingError as exc:
        result = exc
    assert waiting == []
    return steps, pauses, result


def create(*answers, order: Order | None = None):
    """Drive a create."""
    return drive(flows.create_task(order or text_to_video_order("x", {}, new_design=True), RETRIES), *answers)


def paths(steps) -> list[str]:
    """Return method and path of each step."""
    return [f"{step.method} {step.path}" for step in steps]


def test_a_create_that_is_accepted():
    """One sending; the external id is the intent's event id and the correlation."""
    steps, pauses, task = create(ok(NEW))
    assert (task.id, pauses) == (TASK, [])
    (step,) = steps
    external = step.body["options"]["external_task_id"]
    assert step.mark.event_id == step.mark.correlation_id == external


@pytest.mark.parametrize("code", [1302, 1303])
def test_rate_limits_are_waited_out(code):
    """Again with growing pauses, the same external id and the attempt's number; only the first has the id."""
    steps, pauses, task = create(refused(code, 429), refused(code, 429), ok(NEW))
    assert task.id == TASK
    assert pauses == [1.0, 2.0]
    assert len({step.body["options"]["external_task_id"] for step in steps}) == 1
    assert [step.mark.extra.get("attempt") for step in steps] == [None, 2, 3]
    assert [step.mark.event_id is None for step in steps] == [False, True, True]
    assert [step.mark.extra.get("resend_of") == steps[0].mark.event_id for step in steps] == [False, True, True]


def test_rate_limits_end_in_an_error():
    """After the last attempt the caller hears it."""
    _, pauses, error = create(*[refused(1303, 429)] * 3)
    assert isinstance(error, errors.KlingRateLimited)
    assert pauses == [1.0, 2.0]


@pytest.mark.parametrize("code", [1000, 1004, 1101, 1103, 1200, 1201, 1203, 1300, 1304])
def test_other_refusals_are_final(code):
    """No other refusal of a create is tried again."""
    steps, pauses, error = create(refused(code))
    assert (len(steps), pauses, error.code) == (1, [], code)


def test_a_create_that_was_not_sent():
    """Nothing left: an error, and no second try that nobody asked for."""
    steps, _, error = create(Answer.failed(ConnectError()))
    assert len(steps) == 1
    assert isinstance(error, errors.KlingConnectionError)
    assert isinstance(error.__cause__, ConnectError)


@pytest.mark.parametrize(
    "lost", [LOST, refused(5000, 500), refused(5002, 504), Answer.of(200, b""), Answer.of(502, b"")]
)
def test_a_lost_create_is_looked_up_before_anything_else(lost):
    """After an unclear answer the task is searched by its external id, and found."""
    steps, pauses, task = create(lost, ok([NEW]))
    assert task.id == TASK
    assert paths(steps) == ["POST /text-to-video/kling-3.0-turbo", "GET /tasks"]
    assert steps[1].params == {"external_task_ids": steps[0].body["options"]["external_task_id"]}
    assert pauses == [1.0]


def test_a_lost_create_is_sent_again_where_that_is_safe():
    """Not found: the same order with the same external id, marked as sent again."""
    steps, _, task = create(LOST, GONE, ok(NEW))
    assert task.id == TASK
    assert steps[2].body == steps[0].body
    assert steps[2].mark.extra == {"attempt": 2, "resend_of": steps[0].mark.event_id}


def test_a_second_sending_that_exists_is_found():
    """1201 after a lost sending means that the first one was accepted."""
    _, _, task = create(LOST, GONE, refused(1201), ok([NEW]))
    assert task.id == TASK


@pytest.mark.parametrize("last", [refused(1301), refused(1303, 429)])
def test_a_doubtful_create_stays_doubtful(last):
    """A later refusal says nothing about the first sending: the outcome is unknown, with the id to look it up."""
    answers = [LOST, GONE, last] if last.reply.code == 1301 else [LOST, GONE, last, last]
    steps, _, error = create(*answers)
    assert isinstance(error, errors.KlingOutcomeUnknown)
    assert error.external_task_id == steps[0].mark.event_id


def test_an_id_that_is_taken_after_a_rate_limit():
    """Should a refused sending have kept the external id, the task is looked up, not ordered under another id."""
    _, _, task = create(refused(1303, 429), refused(1201), ok([NEW]))
    assert task.id == TASK


def test_a_row_without_observed_idempotency_is_never_sent_again():
    """Elsewhere an unclear create is looked up once and ends unknown."""
    from dataclasses import replace

    order = text_to_video_order("x", {"model": "kling-v2-6"}, new_design=True)
    row = replace(LEGACY_TEXT_TO_VIDEO, idempotent=False)
    steps, _, error = create(LOST, refused(1201), order=replace(order, row=row))
    assert paths(steps) == ["POST /v1/videos/text2video", f"GET /v1/videos/text2video/{steps[0].mark.event_id}"]
    assert isinstance(error, errors.KlingOutcomeUnknown)


@pytest.mark.parametrize(
    "trouble",
    [
        LOST,
        Answer.failed(ConnectError()),
        refused(5000, 500),
        refused(1302, 429),
        Answer.of(502, b""),
        Answer.of(200, b"x"),
    ],
)
def test_reads_are_repeated(trouble):
    """Network errors, server errors, broken answers and rate limits of a read are tried again."""
    flow = flows.fetch_task(TASK, route=LEGACY_TEXT_TO_VIDEO.path, retries=RETRIES)
    steps, pauses, task = drive(flow, trouble, trouble, ok({"task_id": TASK, "task_status": "processing"}))
    assert (task.status, pauses, len(steps)) == ("processing", [1.0, 2.0], 3)
    assert len({id(step.mark) for step in steps}) == 3


@pytest.mark.parametrize(
    "trouble,expected",
    [
        (LOST, errors.KlingConnectionError),
        (refused(5000, 500), errors.KlingServerError),
        (Answer.of(502, b""), errors.KlingServerError),
        (Answer.of(200, b"<html>"), errors.KlingReplyMalformed),
    ],
)
def test_reads_that_never_work(trouble, expected):
    """After the last attempt the caller gets the error's own kind."""
    _, _, error = drive(flows.fetch_task(TASK, route=LEGACY_TEXT_TO_VIDEO.path, retries=RETRIES), *[trouble] * 3)
    assert type(error) is expected


@pytest.mark.parametrize("code", [1000, 1103, 1201])
def test_reads_that_are_refused(code):
    """A refusal of a read is not repeated."""
    steps, _, error = drive(flows.fetch_task(TASK, route=LEGACY_TEXT_TO_VIDEO.path, retries=RETRIES), refused(code))
    assert (len(steps), error.code) == (1, code)


def test_an_unknown_task():
    """The new design answers an unknown id with an empty list; that is an error for who asked for one task."""
    _, _, error = drive(flows.fetch_task(TASK, route=None, retries=RETRIES), GONE)
    assert isinstance(error, errors.KlingRequestError)
    assert drive(flows.find_task("x", route=None, retries=RETRIES), GONE)[2] is None
    assert drive(flows.find_task("x", route=LEGACY_TEXT_TO_VIDEO.path, retries=RETRIES), refused(1201))[2] is None


def test_waiting_polls_until_the_end():
    """Each poll is reported; the pause is the interval; the end is returned."""
    seen = []
    flow = flows.wait_for_task(
        TaskRecord(TASK, "submitted"),
        route=None,
        retries=RETRIES,
        timeout=60,
        poll_interval=5,
        report=lambda task: seen.append(task.status),
    )
    answers = [ok([{"id": TASK, "status": status}]) for status in ("processing", "processing", "failed")]
    _, pauses, task = drive(flow, *answers)
    assert task.status == "failed"
    assert seen == ["submitted", "processing", "processing", "failed"]
    assert pauses == [5, 5, 5]
    with pytest.raises(errors.KlingTaskFailed):
        flows.ended_well(task)


def test_waiting_ends_in_time():
    """When the time is up the task goes on and the caller is told so."""
    flow = flows.wait_for_task(
        TaskRecord(TASK, "processing"),
        route=None,
        retries=RETRIES,
        timeout=0,
        poll_interval=5,
        report=lambda task: None,
    )
    _, _, error = drive(flow)
    assert isinstance(error, errors.KlingWaitTimeout)
    assert error.task_id == TASK


def test_pages():
    """Legacy lists go on while pages are full, the new design while there is a cursor."""
    page = flows.task_page(LEGACY_TEXT_TO_VIDEO.path, size=2)
    _, _, (tasks, following) = drive(flows.list_page(page, RETRIES), ok([{"task_id": "1"}, {"task_id": "2"}]))
    assert ([task.id for task in tasks], following.number) == (["1", "2"], 2)
    _, _, (tasks, following) = drive(flows.list_page(following, RETRIES), ok([{"task_id": "3"}]))
    assert ([task.id for task in tasks], following) == (["3"], None)
    page = flows.task_page(None, size=2, search={"start_time": 1})
    more = ok({"result": [{"id": "1"}], "has_more": True, "next_cursor": "c"})
    (step,), _, (_, following) = drive(flows.list_page(page, RETRIES), more)
    assert (step.method, step.body) == ("POST", {"start_time": 1, "limit": 2})
    (step,), _, (tasks, following) = drive(flows.list_page(following, RETRIES), ok({"count": 0, "has_more": False}))
    assert (step.body["cursor"], tasks, following) == ("c", [], None)


class Basket:
    """A download target that counts."""

    def __init__(self) -> None:
        self.restarts = 0

    def restart(self) -> None:
        self.restarts += 1

    def write(self, chunk: bytes) -> None:
        """Throw away."""


def test_downloads_are_repeated_from_the_start():
    """A download that breaks off begins anew; a link that is refused is not asked again."""
    basket = Basket()
    flow = flows.download("https://cdn/x.mp4", basket, RETRIES, task_id=TASK, result_id="v")
    steps, pauses, result = drive(
        flow, LOST, Answer(Reply("refused", http_status=503)), Answer(Reply("ok", http_status=200))
    )
    assert (result, basket.restarts, pauses) == (None, 3, [1.0, 2.0])
    assert all(isinstance(step, Fetch) and step.mark.operation.thing == TASK for step in steps)
    flow = flows.download("https://cdn/x.mp4", Basket(), RETRIES, task_id=TASK, result_id="v")
    _, _, error = drive(flow, Answer(Reply("refused", http_status=403)))
    assert isinstance(error, errors.KlingDownloadFailed)
    assert error.http_status == 403


def test_pauses_grow_and_are_bounded():
    """Half to all of a ceiling that doubles up to the cap; at least one attempt."""
    low = Retries(first=1, cap=8, random=lambda: 0.0)
    assert [low.pause(attempt).seconds for attempt in (1, 2, 3, 4, 5, 99)] == [0.5, 1, 2, 4, 4, 4]
    with pytest.raises(UsageError):
        Retries(attempts=0)


def test_every_step_carries_its_operation():
    """The client tells the recorder what each call is, so that no base URL can hide it."""
    (step,), _, _ = create(ok(NEW))
    assert isinstance(step, Send)
    assert (step.mark.operation.name, step.mark.operation.kind) == ("text_to_video", "paid_create")
    assert step.mark.operation.row.variables == {"model": "kling-3.0-turbo"}


SPEECH = product_order("text_to_speech", {"text": "x", "voice_id": "v"})


def test_a_call_that_answers_at_once_is_sent_again_only_when_it_is_safe():
    """Rate limits are waited out; an unclear answer is not repeated, since there is nothing to look up."""
    steps, pauses, reply = drive(flows.pay(SPEECH, RETRIES), refused(1302, 429), ok({"task_id": "1"}))
    assert (len(steps), pauses, reply.data) == (2, [1.0], {"task_id": "1"})
    assert steps[1].mark.extra == {"attempt": 2, "resend_of": steps[0].mark.event_id}
    steps, _, error = drive(flows.pay(SPEECH, RETRIES), LOST)
    assert (len(steps), type(error)) == (1, errors.KlingOutcomeUnknown)
    _, _, error = drive(flows.pay(SPEECH, RETRIES), refused(1301))
    assert type(error) is errors.KlingPolicyViolation


def test_what_was_made_at_once_is_a_record():
    """With Kling's id, or without one."""
    done = ok({"final_unit_deduction": "0.1", "task_result": {"images": [{"url": "u"}]}})
    _, _, record = drive(flows.pay_for_task(SPEECH, RETRIES), done)
    assert (record.id, record.status, len(record.results)) == ("", "succeeded", 1)
    _, _, error = drive(flows.pay_for_task(SPEECH, RETRIES), ok(None))
    assert isinstance(error, errors.KlingReplyMalformed)


def test_raw_calls():
    """Reads are repeated; what may change something is sent once, and an unclear answer names the caller's own id."""
    steps, _, reply = drive(flows.ask("get", "/v9/dreams", None, {"a": "1"}, RETRIES), LOST, ok({"x": 1}))
    assert (reply.data, [step.mark.operation.kind for step in steps]) == ({"x": 1}, ["read", "read"])
    body = {"external_task_id": "mine"}
    steps, _, error = drive(flows.ask("POST", "/v9/dreams", body, {}, RETRIES), LOST)
    assert (len(steps), error.external_task_id) == (1, "mine")
    assert (steps[0].mark.operation.name, steps[0].mark.operation.kind) == ("/v9/dreams", "paid_create")


def test_packs_with_an_error_inside():
    """The inner wrapping of the costs is read, too."""
    _, _, packs = drive(flows.fetch_packs({}, RETRIES), ok({"code": 0, "resource_pack_subscribe_infos": [{}]}))
    assert len(packs) == 1
    _, _, error = drive(flows.fetch_packs({}, RETRIES), ok({"code": 1103, "msg": "no"}))
    assert isinstance(error, errors.KlingPermissionError)
