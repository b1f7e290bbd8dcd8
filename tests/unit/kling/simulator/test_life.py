"""The account over time: life cycle, slots, ids, limits, policy, result links."""

from __future__ import annotations

import threading
import time

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.kling.simulator import ManualClock, RealClock, Simulator, core


def test_a_task_goes_through_its_states_on_the_clock(ask, clock) -> None:
    """Submitted for 2 seconds, processing for 28, then over for good; the update time is each change's."""
    task_id, start, seen = ask.create(), clock.now_ms(), []
    for step in (0, 1.999, 0.001, 27.999, 0.001, 1000):
        clock.advance(step)
        record = ask.record(task_id)
        seen.append((record["status"], record["update_time"] - start))
    assert seen == [
        ("submitted", 0),
        ("submitted", 0),
        ("processing", 2000),
        ("processing", 2000),
        ("succeeded", 30000),
        ("succeeded", 30000),
    ]


def test_the_pace_can_be_set(sim, ask, clock) -> None:
    """Queue and rendering times are attributes that hold for tasks made after the change."""
    sim.queue_seconds, sim.render_seconds = 0, 0.5
    task_id = ask.create()
    assert ask.record(task_id)["status"] == "processing"
    clock.advance(0.5)
    assert ask.record(task_id)["status"] == "succeeded"


def test_the_real_clock_is_fast_but_true(asker) -> None:
    """At speed 300 a task of 30 seconds ends within a fraction of one, and its times are the present."""
    ask = asker(Simulator(RealClock(speed=300)))
    before = time.time()
    task_id = ask.create()
    deadline = time.monotonic() + 20
    while ask.record(task_id)["status"] != "succeeded":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    record = ask.record(task_id)
    assert record["update_time"] - record["create_time"] == 100
    assert before - 1 <= record["create_time"] / 1000 <= time.time() + 1


@pytest.mark.parametrize("speed", [0, -1])
def test_a_speed_is_positive(speed: float) -> None:
    """A clock that does not move is ManualClock's business."""
    with pytest.raises(UsageError):
        RealClock(speed)


def test_time_only_moves_forward() -> None:
    """A manual clock refuses to go back, and starts at the present by default."""
    clock = ManualClock()
    with pytest.raises(UsageError):
        clock.advance(-1)
    assert abs(clock.now_ms() / 1000 - time.time()) < 60


def test_ids_are_eighteen_digits_and_unique(sim, asker) -> None:
    """Tasks and results of an account never share an id, however many are made in one moment."""
    sim.concurrency["video"] = 100
    for _ in range(50):
        asker(sim).create()
    ids = [name for task in sim.tasks for name in (task.task_id, task.outputs[0].output_id)]
    assert {len(name) for name in ids} == {18}
    assert len(set(ids)) == len(ids) == 100


def test_slots_are_per_model_version_across_generations(sim, ask, clock) -> None:
    """The legacy name of a version and its new path share their slots."""
    sim.concurrency["video"] = 2
    ask.create(model="kling-2.6")
    legacy = {"prompt": "a", "model_name": "kling-v2-6"}
    assert ask("POST", "/v1/videos/text2video", legacy).status == 200
    refused = ask("POST", "/v1/videos/text2video", legacy)
    assert (refused.status, refused.code) == (429, 1303)
    assert refused.json["message"] == "parallel task over resource pack limit"
    assert "data" not in refused.json
    clock.advance(30)
    assert ask("POST", "/v1/videos/text2video", legacy).status == 200


def test_a_refused_create_does_not_use_up_its_external_id(sim, ask, clock) -> None:
    """The id is free until a task has it; then it is taken for good, failure included."""
    sim.concurrency["video"] = 1
    ask.create()
    body = {"prompt": "a doomed one", "options": {"external_task_id": "mine"}}
    assert ask("POST", "/text-to-video/kling-3.0", body).code == 1303
    clock.advance(30)
    assert ask("POST", "/text-to-video/kling-3.0", body).status == 200
    clock.advance(30)
    again = ask("POST", "/text-to-video/kling-3.0", body)
    assert (again.status, again.code) == (400, 1201)
    assert again.json["message"] == "External_task_id mine already exists"


def test_only_one_of_many_racing_creates_gets_the_id(sim, ask) -> None:
    """Twenty threads with one external id make one task."""
    sim.concurrency["video"] = 100
    codes: list[int] = []
    barrier = threading.Barrier(20)
    body = {"prompt": "a", "options": {"external_task_id": "mine"}}

    def create() -> None:
        barrier.wait()
        codes.append(ask("POST", "/text-to-video/kling-3.0", body).code)

    threads = [threading.Thread(target=create) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sorted(codes), len(sim.tasks), len(sim.requests)) == ([0] + [1201] * 19, 1, 20)


def test_words_of_the_policy_can_be_chosen(sim, ask, clock) -> None:
    """The marker words are attributes; they are found in any case and inside words."""
    sim.blocked_words, sim.failing_words = ("volcano",), ("flood",)
    refused = ask("POST", "/text-to-video/kling-3.0", {"prompt": "VOLCANOES at dusk"})
    assert (refused.status, refused.code) == (400, 1301)
    assert "VOLCANOES at dusk" in refused.json["message"]
    task_id = ask.create("a flooded, forbidden, doomed street")
    clock.advance(30)
    record = ask.record(task_id)
    assert (record["status"], "a flooded" in record["message"]) == ("failed", True)
    assert (record["outputs"], record["billing"]) == ([], [])


def test_any_prompt_is_echoed_without_breaking_the_reply(ask) -> None:
    """Quotes, line breaks, astral characters and even half a surrogate pair come back as JSON."""
    prompt = 'forbidden "quote"\n\U0001f409 \ud800'
    message = ask("POST", "/text-to-video/kling-3.0", {"prompt": prompt}).json["message"]
    assert message.endswith('forbidden "quote"\n\U0001f409 ?')


def test_creates_can_be_limited_in_time(sim, ask, clock) -> None:
    """With a rate limit set, further creates are 429 / 1302 until the window has passed; reads are free."""
    sim.rate_limit = (2, 1.0)
    task_id = ask.create()
    ask.create()
    refused = ask("POST", "/text-to-video/kling-3.0", {"prompt": "a"})
    assert (refused.status, refused.code) == (429, 1302)
    assert ask.record(task_id)["status"] == "submitted"
    clock.advance(1)
    ask.create()


def test_a_result_needs_its_link_and_no_key(ask, clock) -> None:
    """The link works without Authorization, only once the task has succeeded, and only unchanged."""
    task_id = ask.create()
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"]
    good = ask.media(url)
    assert (good.status, good.headers["content-type"], good.body[4:8]) == (200, "video/mp4", b"ftyp")
    assert ask.media(url) == good
    spoiled = [url.partition("?")[0], url[:-1], url.replace("expires=1", "expires=2"), url.replace(".mp4", "x.mp4")]
    assert [ask.media(link).status for link in spoiled] == [403] * 4


def test_there_is_nothing_to_fetch_before_success(sim, ask, clock) -> None:
    """A link that was guessed right still leads nowhere while the task runs, and after a failure."""
    links = []
    for prompt in ("a lighthouse", "a doomed one"):
        task = sim.task(ask.create(prompt))
        links.append(sim.media_path(task, task.outputs[0], marked=False))
    assert [ask.media(link).status for link in links] == [404, 404]
    clock.advance(30)
    assert [ask.media(link).status for link in links] == [200, 404]


def test_a_link_expires_after_thirty_days(ask, clock) -> None:
    """The hotlink protection ends a link's life."""
    task_id = ask.create()
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"]
    clock.advance(30 * 24 * 3600 - 1)
    assert ask.media(url).status == 200
    clock.advance(1)
    assert ask.media(url).status == 403


def test_the_watermarked_version_is_another_file(ask, clock) -> None:
    """Both links work and lead to different bytes."""
    body = {"prompt": "a", "options": {"watermark_info": {"enabled": True}}}
    task_id = ask("POST", "/text-to-video/kling-3.0", body).data["id"]
    clock.advance(30)
    (output,) = ask.record(task_id)["outputs"]
    plain, marked = ask.media(output["url"]), ask.media(output["watermark_url"])
    assert (plain.status, marked.status, plain.body == marked.body) == (200, 200, False)


def test_downloads_can_be_redirected(sim, ask, clock) -> None:
    """Each hop leads on by an absolute address; the last one has the bytes."""
    task_id = ask.create()
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"]
    direct = ask.media(url).body
    sim.media_redirects = 2
    hops = 0
    reply = ask.media(url)
    while reply.status == 302:
        hops += 1
        reply = ask.media(reply.headers["Location"])
    assert (hops, reply.status, reply.body) == (2, 200, direct)


def test_a_result_can_only_be_fetched(ask, clock) -> None:
    """There is no deleting on the CDN."""
    task_id = ask.create()
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"].removeprefix("http://sim.example")
    assert ask("DELETE", url, auth=None).status == 405


def test_every_request_is_kept_for_inspection(sim, ask) -> None:
    """Method, route, headers, body, caller, status and created task of each request can be asserted."""
    assert sim.requests == []
    task_id = ask.create("a lighthouse")
    ask("GET", "/nowhere")
    created = sim.calls("POST", "/text-to-video/*")[0]
    assert (created.status, created.task_id, created.caller.name) == (200, task_id, "default")
    assert created.headers["authorization"] == "Bearer sim-api-key"
    assert b"a lighthouse" in created.body
    assert [(seen.method, seen.route, seen.status) for seen in sim.requests] == [
        ("POST", "/text-to-video/kling-3.0", 200),
        ("GET", "/nowhere", 404),
    ]
    assert sim.calls("DELETE") == []


def test_old_requests_make_room(sim, ask, monkeypatch) -> None:
    """A simulator that runs for days keeps the latest requests only."""
    monkeypatch.setattr(core, "MAX_KEPT_REQUESTS", 10)
    for number in range(11):
        ask("GET", f"/number/{number}")
    assert [seen.path for seen in sim.requests] == [f"/number/{number}" for number in range(5, 11)]


def test_a_long_body_is_kept_as_its_digest(sim, ask) -> None:
    """Bodies of many megabytes do not pile up; their SHA-256 does."""
    ask("POST", "/v1/videos/text2video", b"x" * 70_000)
    assert (sim.requests[0].body, len(sim.requests[0].body_sha256)) == (b"", 64)


def test_asking_for_an_unknown_task_is_a_mistake(sim) -> None:
    """`task` finds by either id and says so when there is none."""
    with pytest.raises(UsageError):
        sim.task("nothing")
