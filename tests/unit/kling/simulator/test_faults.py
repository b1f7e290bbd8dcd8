"""Scripted trouble, as the script says: once, in order, before or after the act."""

from __future__ import annotations

import json

import pytest

from klingai_audit.errors import UsageError

CREATE = "/text-to-video/kling-3.0"
BODY = {"prompt": "a lighthouse", "options": {"external_task_id": "mine"}}


@pytest.mark.parametrize(
    "script, expected",
    [
        ({}, (500, 5000)),
        ({"status": 503}, (503, 5001)),
        ({"status": 504}, (504, 5002)),
        ({"code": 1302}, (429, 1302)),
        ({"code": 1102}, (429, 1102)),
        ({"status": 502, "code": 5002}, (502, 5002)),
        ({"status": 599}, (599, 5000)),
    ],
    ids=str,
)
def test_status_and_code_follow_from_each_other(script: dict[str, int], expected: tuple[int, int], sim, ask) -> None:
    """What the script leaves out is taken from the code table; the request changes nothing."""
    sim.fail_next("POST", CREATE, **script)
    reply = ask("POST", CREATE, BODY)
    assert (reply.status, reply.code, sim.tasks) == (*expected, [])
    assert (sim.requests[0].status, sim.requests[0].task_id) == (expected[0], None)


def test_a_fault_happens_as_often_as_it_says_and_only_where(sim, ask) -> None:
    """Other methods and paths go on; after the last time so does the path itself."""
    sim.fail_next("POST", "/text-to-video/*", status=503, times=2)
    assert ask("GET", "/tasks?task_ids=1").status == 200
    assert ask("POST", "/v1/videos/text2video", {"prompt": "a"}).status == 200
    assert [ask("POST", CREATE, BODY).status for _ in range(3)] == [503, 503, 200]
    assert len(sim.faults) == 0


def test_faults_are_taken_in_the_order_written(sim, ask) -> None:
    """Two faults for one path happen one after the other; a star matches any method."""
    sim.fail_next("*", "/tasks", status=500)
    sim.fail_next("GET", "/tasks", status=504)
    assert [ask("GET", "/tasks?task_ids=1").status for _ in range(3)] == [500, 504, 200]


def test_faults_can_be_forgotten(sim, ask) -> None:
    """Clearing the script restores normal service."""
    sim.fail_next("*", "*", times=100)
    sim.faults.clear()
    assert ask("GET", "/tasks?task_ids=1").status == 200


def test_an_accepted_create_with_a_lost_reply_has_happened(sim, ask) -> None:
    """After acceptance the task exists though the caller was told otherwise, and its id is taken."""
    sim.fail_next("POST", CREATE, after_accept=True)
    assert (ask("POST", CREATE, BODY).code, len(sim.tasks)) == (5000, 1)
    assert sim.requests[0].task_id == sim.task("mine").task_id
    assert ask("POST", CREATE, BODY).json["message"] == "External_task_id mine already exists"
    assert len(ask("GET", "/tasks?external_task_ids=mine").data) == 1


@pytest.mark.parametrize("after", [False, True], ids=["before acceptance", "after acceptance"])
def test_a_dropped_connection_has_no_reply(after: bool, sim, ask) -> None:
    """Dropping gives nothing back, before or after the act."""
    sim.fail_next("POST", CREATE, drop=True, after_accept=after)
    assert ask.deliver("POST", CREATE, BODY).response is None
    assert (len(sim.tasks), sim.requests[0].status) == (int(after), None)


def test_a_message_can_echo_the_prompt(sim, ask) -> None:
    """`{prompt}` in a scripted message becomes the request's prompt."""
    sim.fail_next("POST", CREATE, code=1301, message="refused: {prompt}!")
    assert ask("POST", CREATE, BODY).json["message"] == "refused: a lighthouse!"
    sim.fail_next("GET", "/tasks", code=5000, message="no {prompt} here")
    assert ask("GET", "/tasks?task_ids=1").json["message"] == "no  here"


def test_a_malformed_body_goes_out_as_written(sim, ask) -> None:
    """Broken JSON and a wrong content type, under 200 unless the script says otherwise."""
    sim.fail_next("POST", CREATE, body=b'{"code":0,', after_accept=True)
    sim.fail_next("POST", CREATE, body=b"<html>", status=502, content_type="text/html", headers={"Server": "proxy"})
    first, second = ask("POST", CREATE, BODY), ask("POST", CREATE, BODY)
    assert (first.status, first.body, len(sim.tasks)) == (200, b'{"code":0,', 1)
    assert (second.status, second.body) == (502, b"<html>")
    assert (second.headers["content-type"], second.headers["Server"]) == ("text/html", "proxy")


@pytest.mark.parametrize("script", [{"delay": 2.0}, {"truncate": 5}, {"content_type": "text/plain"}], ids=str)
def test_a_distorted_reply_is_the_genuine_one(script: dict[str, object], sim, ask) -> None:
    """Late, cut or mislabelled: the act happens and its own reply goes out."""
    sim.fail_next("POST", CREATE, **script)
    delivery = ask.deliver("POST", CREATE, BODY)
    assert json.loads(delivery.response.body)["data"]["id"] == sim.tasks[0].task_id
    told = {"delay": delivery.delay, "truncate": delivery.truncate, "content_type": delivery.response.content_type}
    assert {name: told[name] for name in script} == script


def test_downloads_can_fail_too(sim, ask, clock) -> None:
    """The script reaches result links."""
    task_id = ask.create()
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"]
    sim.fail_next("GET", "/media/*", status=503)
    assert [ask.media(url).status for _ in range(2)] == [503, 200]


def test_a_key_is_checked_also_when_the_reply_will_be_lost(sim, ask) -> None:
    """After acceptance means what would have been accepted: a bad key makes no task."""
    sim.fail_next("POST", CREATE, after_accept=True)
    ask("POST", CREATE, BODY, auth="garbage")
    assert sim.tasks == []


@pytest.mark.parametrize("script", [{"times": 0}, {"delay": -1}, {"truncate": -1}, {"hang": -0.1}], ids=str)
def test_an_impossible_script_is_refused(script: dict[str, object], sim) -> None:
    """Numbers that cannot be meant are mistakes of the test."""
    with pytest.raises(UsageError):
        sim.fail_next("GET", "*", **script)
