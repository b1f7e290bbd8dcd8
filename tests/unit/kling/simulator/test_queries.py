"""Reading tasks back: singles, lists, `/tasks` by ids and by cursor, and odd paths."""

from __future__ import annotations

import pytest

LEGACY = "/v1/videos/text2video"


def test_single_finds_only_tasks_of_its_path(ask) -> None:
    """A task of the new design is not seen by the legacy single query."""
    task_id = ask.create()
    reply = ask("GET", f"{LEGACY}/{task_id}")
    assert (reply.code, reply.json["message"]) == (1201, f"Task not found by id/external id: {task_id}")
    assert ask("GET", LEGACY).data == []


def test_an_external_id_may_need_escaping(ask) -> None:
    """Percent-encoded ids in the path and in the query are read as the text they stand for."""
    ask("POST", LEGACY, {"prompt": "a", "external_task_id": "mine/ä 1"})
    assert ask("GET", f"{LEGACY}/mine%2F%C3%A4%201").data["task_info"] == {"external_task_id": "mine/ä 1"}
    assert len(ask("GET", "/tasks?external_task_ids=mine/%C3%A4+1").data) == 1


def test_both_generations_meet_in_tasks_in_the_order_asked(ask) -> None:
    """Ids are answered in their order, once each, unknown ones left out."""
    new = ask.create()
    old = ask("POST", LEGACY, {"prompt": "a"}).data["task_id"]
    found = ask("GET", f"/tasks?task_ids={old},77,{new},%20{old}").data
    assert [record["id"] for record in found] == [old, new]


@pytest.mark.parametrize("query", ["", "?task_ids=", "?task_ids=,,", "?ids=1"])
def test_tasks_needs_ids(query: str, ask) -> None:
    """Without any id there is nothing to look for."""
    assert (ask("GET", f"/tasks{query}").status, ask("GET", f"/tasks{query}").code) == (400, 1200)


@pytest.mark.parametrize(
    "query", ["pageNum=0", "pageNum=1001", "pageSize=0", "pageSize=501", "pageNum=x", "pageSize=-1", "pageNum=1.5"]
)
def test_pages_have_limits(query: str, ask) -> None:
    """Page numbers and sizes outside the documented ranges are 1201."""
    assert (ask("GET", f"{LEGACY}?{query}").status, ask("GET", f"{LEGACY}?{query}").code) == (400, 1201)


def test_a_page_holds_thirty_by_default(sim, ask) -> None:
    """The default page size is 30 and the second page goes on where the first ended."""
    sim.concurrency["video"] = 100
    made = [ask("POST", LEGACY, {"prompt": "a"}).data["task_id"] for _ in range(35)]
    pages = [[record["task_id"] for record in ask("GET", f"{LEGACY}?pageNum={n}").data] for n in (1, 2)]
    assert pages == [made[:4:-1], made[4::-1]]
    assert [record["task_id"] for record in ask("GET", LEGACY).data] == pages[0]
    assert len(ask("GET", f"{LEGACY}?pageNum=1&pageSize=500").data) == 35


def test_a_search_holds_a_hundred_by_default(sim, ask) -> None:
    """The default limit is 100, and up to 500 can be asked for."""
    sim.concurrency["video"] = 1000
    for _ in range(101):
        ask.create()
    assert [ask("POST", "/tasks", body).data["count"] for body in ({}, {"limit": 500})] == [100, 101]


def test_the_cursor_walks_through_everything_once(sim, ask, clock) -> None:
    """Pages chained by cursor hold every task once, also when new tasks come in between."""
    sim.concurrency["video"] = 100
    made = []
    for _ in range(7):
        made.append(ask.create())
        clock.advance(1)
    seen, body = [], {"limit": 3}
    while True:
        data = ask("POST", "/tasks", body).data
        assert data["count"] == len(data["result"])
        seen += [record["id"] for record in data["result"]]
        if not data["has_more"]:
            assert "next_cursor" not in data
            break
        ask.create()
        body = {"limit": 3, "cursor": data["next_cursor"], "start_time": clock.now_ms() + 1, "end_time": "1"}
    assert seen == made[::-1]


def test_filters_are_or_within_a_key_and_and_across(ask, clock) -> None:
    """Values of one key are alternatives; every key must hold."""
    done = ask.create("a doomed one")
    clock.advance(30)
    waiting = ask.create()

    def found(*filters: tuple[str, list[str]]) -> list[str]:
        body = {"filters": [{"key": key, "values": values} for key, values in filters]}
        return [record["id"] for record in ask("POST", "/tasks", body).data.get("result", [])]

    assert found(("status", ["failed", "submitted"])) == [waiting, done]
    assert found(("status", ["failed"]), ("product_type", ["video", "image"])) == [done]
    assert found(("status", ["failed"]), ("product_type", ["try_on"])) == []


def test_a_search_looks_back_thirty_days(ask, clock) -> None:
    """Without times the window is the last thirty days."""
    ask.create()
    clock.advance(30 * 24 * 3600 + 1)
    assert ask("POST", "/tasks").data == {"count": 0, "has_more": False}
    assert ask("POST", "/tasks", {"start_time": 0}).data["count"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0},
        {"limit": 501},
        {"start_time": "yesterday"},
        {"start_time": -1},
        {"end_time": "tomorrow"},
        {"start_time": True},
        {"start_time": 5, "end_time": 5},
        {"cursor": "no cursor of ours"},
        {"cursor": "bnVsbA=="},
        {"filters": [{"key": "colour", "values": []}]},
        {"filters": [{"key": "status", "values": ["succeed"]}]},
        {"filters": [{"key": "status", "values": "failed"}]},
        {"filters": ["status"]},
    ],
    ids=str,
)
def test_a_search_with_a_wrong_value_is_1201(body: dict[str, object], ask) -> None:
    """Limits, times, cursor and filters are checked."""
    assert (ask("POST", "/tasks", body).status, ask("POST", "/tasks", body).code) == (400, 1201)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/videos", "/v1/videos/text2video/1/2", "/text-to-video", "/text-to-video/kling-3.0/1"]
)
def test_unknown_paths_are_1203(path: str, ask) -> None:
    """A path that leads nowhere is 404 / 1203, with or without a key."""
    for auth in ("sim-api-key", None):
        assert (ask("GET", path, auth=auth).status, ask("GET", path, auth=auth).code) == (404, 1203)


@pytest.mark.parametrize("path", ["//v1//videos/text2video//", "/v1/videos/text2video/", "///v1/videos//text2video"])
def test_repeated_slashes_are_tolerated(path: str, sim, ask) -> None:
    """Clients that build paths carelessly still arrive."""
    assert ask("POST", path, {"prompt": "a"}).status == 200
    assert (sim.requests[-1].path, sim.requests[-1].route) == (path, LEGACY)


def test_a_prefix_is_optional(sim, ask) -> None:
    """With a path prefix set, the API answers under it and without it, but under no other."""
    sim.prefix = "/kling"
    statuses = [ask("GET", f"{prefix}{LEGACY}").status for prefix in ("/kling", "", "/other", "/kling/kling")]
    assert statuses == [200, 200, 404, 404]
