"""Thirty days later, and with a provider's clock that is off."""

from __future__ import annotations

from klingai_audit.kling.simulator import DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, mint_token

THIRTY_DAYS = 30 * 24 * 3600
LEGACY = "/v1/videos/text2video"


def test_everything_is_cleared_after_thirty_days(sim, ask, clock) -> None:
    """Records, ids of callers, lists and results go 30 days after the task's end; the ledger stays."""
    task_id = ask("POST", LEGACY, {"prompt": "a", "external_task_id": "mine"}).data["task_id"]
    clock.advance(30)
    url = ask.record(task_id)["outputs"][0]["url"]
    clock.advance(THIRTY_DAYS - 1)
    assert ask("GET", f"{LEGACY}/mine").data["task_status"] == "succeed"
    clock.advance(1)
    gone = ask("GET", f"{LEGACY}/mine")
    assert (gone.status, gone.code) == (400, 1201)
    assert gone.json["message"] == "Task not found by id/external id: mine"
    assert (ask("GET", LEGACY).data, ask("GET", f"/tasks?task_ids={task_id}").data) == ([], [])
    assert (ask("POST", "/tasks", {"start_time": 0}).data["count"], ask.media(url).status) == (0, 403)
    line = ask("POST", "/account/billing/package", {"start_time": 1, "end_time": clock.now_ms()}).data["result"]
    assert [detail["task_id"] for detail in line["detail"]] == [task_id]


def test_only_what_is_old_is_cleared(sim, ask, clock) -> None:
    """Each task goes at its own time, and its external id can be used again."""
    ask.create(external_id="old")
    clock.advance(10)
    sim.render_seconds = 100
    ask.create(external_id="slow")
    clock.advance(90)
    sim.render_seconds = 28
    ask.create(external_id="new")
    clock.advance(THIRTY_DAYS - 70)
    ids = "old,slow,new"
    found = ask("GET", f"/tasks?external_task_ids={ids}").data
    assert [record["external_id"] for record in found] == ["slow", "new"]
    assert ask.create(external_id="old")
    clock.advance(100)
    assert [r["external_id"] for r in ask("GET", f"/tasks?external_task_ids={ids}").data] == ["old"]


def test_a_cursor_survives_clearing(sim, ask, clock) -> None:
    """Pages go on where they were although older tasks have been cleared meanwhile."""
    made = []
    for _ in range(4):
        made.append(ask.create())
        clock.advance(60)
    first = ask("POST", "/tasks", {"limit": 2}).data
    clock.advance(THIRTY_DAYS - 4 * 60 + 31)
    second = ask("POST", "/tasks", {"limit": 2, "cursor": first["next_cursor"]}).data
    seen = [record["id"] for page in (first, second) for record in page["result"]]
    assert (seen, second["has_more"]) == ([made[3], made[2], made[1]], False)


def test_old_voices_cannot_be_used(sim, ask, clock) -> None:
    """Generated ids go with their tasks: a voice of 31 days ago can no longer be deleted."""
    ask("POST", "/v1/general/custom-voices", {"voice_name": "a", "voice_url": "https://example.com/a.mp3"})
    clock.advance(30)
    (task,) = sim.tasks
    clock.advance(THIRTY_DAYS)
    assert ask("POST", "/v1/general/delete-voices", {"voice_id": task.outputs[0].output_id}).code == 1201


def test_results_of_synchronous_calls_go_too(sim, ask, clock) -> None:
    """A speech can be fetched for 30 days; later its sound cannot be used either."""
    audio = ask("POST", "/v1/audio/tts", {"text": "0123456789" * 3, "voice_id": "oversea_male1"}).data["task_result"][
        "audios"
    ][0]
    body = {"image": "QUJD", "audio_id": audio["id"]}
    clock.advance(THIRTY_DAYS - 1)
    assert (ask.media(audio["url"]).status, ask("POST", "/v1/videos/avatar/image2video", body).status) == (200, 200)
    clock.advance(1)
    assert (ask.media(audio["url"]).status, ask("POST", "/v1/videos/avatar/image2video", body).code) == (403, 1201)


def test_the_providers_clock_can_be_off(sim, ask, clock) -> None:
    """Seven minutes ahead: records carry the provider's times and its view of a token's."""
    sim.clock_offset_seconds = 7 * 60
    task_id = ask.create()
    assert ask.record(task_id)["create_time"] == clock.now_ms() + 420_000
    stale = mint_token(DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, now_ms=clock.now_ms(), lifetime=400)
    assert ask("GET", LEGACY, auth=stale).code == 1004
    clock.advance(30)
    record = ask.record(task_id)
    assert (record["status"], record["update_time"]) == ("succeeded", clock.now_ms() + 420_000)


def test_a_providers_clock_that_is_behind_refuses_new_tokens(sim, ask, clock) -> None:
    """A token that begins five seconds ago is not valid yet for a clock that is a minute behind."""
    sim.clock_offset_seconds = -60
    token = mint_token(DEFAULT_ACCESS_KEY, DEFAULT_SECRET_KEY, now_ms=clock.now_ms())
    assert ask("GET", LEGACY, auth=token).code == 1003
