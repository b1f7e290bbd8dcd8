"""The field tables of text-to-video: what each model takes and refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

LEGACY = "/v1/videos/text2video"
SHOTS = [{"index": 1, "prompt": "one", "duration": "2"}, {"index": 2, "prompt": "two", "duration": "3"}]


def _legacy(**fields: Any) -> dict[str, Any]:
    return {"prompt": "a lighthouse", **fields}


def _custom(shots: Any, **fields: Any) -> dict[str, Any]:
    return {"model_name": "kling-v3", "multi_shot": True, "shot_type": "customize", "multi_prompt": shots, **fields}


LEGACY_TAKEN = {
    "defaults": _legacy(),
    "prompt at its limit": {"prompt": "é" * 2500},
    "duration as a number": _legacy(duration=10),
    "null and empty mean absent": _legacy(mode=None, sound="", duration=None, callback_url=""),
    "unknown fields": _legacy(model="x", something={"else": 1}),
    "sound off before 2.6": _legacy(model_name="kling-v1", sound="off"),
    "sound on 2.6": _legacy(model_name="kling-v2-6", sound="on"),
    "cfg_scale on v1": _legacy(cfg_scale=0.5),
    "cfg_scale limits": _legacy(cfg_scale=1),
    "4k on v3": _legacy(model_name="kling-v3", mode="4k", duration="15"),
    "camera, one move": _legacy(camera_control={"type": "simple", "config": {"pan": -10, "zoom": 0}}),
    "camera, a fixed type": _legacy(camera_control={"type": "down_back"}),
    "custom shots without prompt": _custom(SHOTS),
    "one custom shot": _custom([{"prompt": "a", "duration": 5}]),
    "six custom shots": _custom([{"prompt": "a" * 512, "duration": "1"}] * 6, duration="6"),
    "shots by the model": _legacy(model_name="kling-v3", multi_shot=True, shot_type="intelligence"),
    "negative prompt": _legacy(negative_prompt="fog"),
}

LEGACY_REFUSED = {
    "prompt not a string": ({"prompt": 5}, 1200),
    "empty prompt": ({"prompt": ""}, 1200),
    "custom shots are needed": (_custom([]), 1201),
    "prompt needed for shots by the model": (_custom(SHOTS) | {"shot_type": "intelligence"}, 1200),
    "negative prompt too long": (_legacy(negative_prompt="a" * 2501), 1201),
    "unknown mode": (_legacy(mode="best"), 1201),
    "4k before v3": (_legacy(mode="4k"), 1201),
    "unknown ratio": (_legacy(aspect_ratio="4:3"), 1201),
    "unknown duration": (_legacy(duration="7"), 1201),
    "duration of v3 only": (_legacy(model_name="kling-v2-6", duration="3"), 1201),
    "duration not a number": (_legacy(duration="five"), 1201),
    "duration a fraction": (_legacy(duration=5.0), 1200),
    "duration true": (_legacy(duration=True), 1200),
    "sound before 2.6": (_legacy(model_name="kling-v2-5-turbo", sound="on"), 1201),
    "sound a boolean": (_legacy(model_name="kling-v2-6", sound=True), 1200),
    "cfg_scale on v2": (_legacy(model_name="kling-v2-master", cfg_scale=0.5), 1201),
    "cfg_scale too high": (_legacy(cfg_scale=1.01), 1201),
    "camera of unknown type": (_legacy(camera_control={"type": "spin"}), 1201),
    "camera, two moves": (_legacy(camera_control={"type": "simple", "config": {"pan": 1, "tilt": 1}}), 1201),
    "camera, no move": (_legacy(camera_control={"type": "simple", "config": {"pan": 0}}), 1201),
    "camera, too far": (_legacy(camera_control={"type": "simple", "config": {"pan": 11}}), 1201),
    "camera, config without simple": (_legacy(camera_control={"type": "forward_up", "config": {"pan": 1}}), 1201),
    "camera not an object": (_legacy(camera_control="simple"), 1200),
    "shots before v3": (_legacy(multi_shot=True), 1201),
    "seven shots": (_custom([{"prompt": "a", "duration": "1"}] * 7, duration="7"), 1201),
    "shots that do not sum": (_custom(SHOTS, duration="6"), 1201),
    "shot of no length": (_custom([{"prompt": "a", "duration": "0"}]), 1201),
    "shot without prompt": (_custom([{"duration": "5"}]), 1200),
    "shot with too long a prompt": (_custom([{"prompt": "a" * 513, "duration": "5"}]), 1201),
    "shot that is no object": (_custom(["a"]), 1200),
    "watermark not an object": (_legacy(watermark_info=True), 1200),
    "external id not a string": (_legacy(external_task_id=7), 1200),
}


@pytest.mark.parametrize("case", LEGACY_TAKEN)
def test_legacy_takes_what_its_table_allows(case: str, ask) -> None:
    """A body within the field table makes a task."""
    reply = ask("POST", LEGACY, LEGACY_TAKEN[case])
    assert (reply.status, reply.code) == (200, 0), reply.json


@pytest.mark.parametrize("case", LEGACY_REFUSED)
def test_legacy_refuses_what_breaks_its_table(case: str, sim, ask) -> None:
    """A missing field or wrong type is 1200, a wrong value 1201, and no task is made."""
    body, code = LEGACY_REFUSED[case]
    reply = ask("POST", LEGACY, body)
    assert (reply.status, reply.code, sim.tasks) == (400, code, [])


BROKEN = {"empty": b"", "cut": b"{", "array": b"[]", "text": b'"a"', "not UTF-8": b"\xff\xfe", "deep": b"[" * 100_000}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_body_that_is_no_json_object_is_1200(body: bytes, ask) -> None:
    """Nothing but an object is read, however broken."""
    for path in (LEGACY, "/text-to-video/kling-3.0"):
        assert (ask("POST", path, body).status, ask("POST", path, body).code) == (400, 1200)


def _new(prompt: Any = "a lighthouse", **settings: Any) -> dict[str, Any]:
    return {"prompt": prompt, "settings": settings}


NEW_TAKEN = {
    "defaults": ("kling-3.0", {"prompt": "a lighthouse"}),
    "prompt at its limit": ("kling-3.0", {"prompt": "é" * 3072}),
    "turbo ignores audio": ("kling-3.0-turbo", _new(audio="off")),
    "shortest": ("kling-3.0-turbo", _new(duration=3)),
    "longest": ("kling-3.0", _new(duration=15)),
    "4k": ("kling-3.0", _new(resolution="4k", audio="native", multi_shot=False)),
    "square": ("kling-2.5-turbo", _new(aspect_ratio="1:1", duration=10)),
    "shots in the prompt": ("kling-3.0", _new("shot 1, 2, a; shot 2, 3, b;")),
    "six shots": ("kling-3.0", _new("".join(f"shot {n}, 1, {'a' * 480};" for n in range(1, 7)), duration=6)),
    "shots switched off": ("kling-3.0", _new("shot 1, 2, a; shot 7, 9, b;", multi_shot=False)),
    "prompt that only speaks of shots": ("kling-3.0", _new("a shot 1, 2, 3 of gin")),
}

NEW_REFUSED = {
    "no prompt": ("kling-3.0", {"settings": {}}, 1200),
    "prompt not a string": ("kling-3.0", _new(["a"]), 1200),
    "duration a string": ("kling-3.0", _new(duration="5"), 1200),
    "duration a fraction": ("kling-3.0", _new(duration=5.5), 1200),
    "duration too short": ("kling-3.0", _new(duration=2), 1201),
    "duration of another model": ("kling-2.6", _new(duration=7), 1201),
    "4k where there is none": ("kling-3.0-turbo", _new(resolution="4k"), 1201),
    "legacy mode as resolution": ("kling-3.0", _new(resolution="pro"), 1201),
    "original audio": ("kling-3.0", _new(audio="original"), 1201),
    "unknown ratio": ("kling-2.6", _new(aspect_ratio="21:9"), 1201),
    "settings not an object": ("kling-3.0", {"prompt": "a", "settings": "720p"}, 1200),
    "multi_shot not a boolean": ("kling-3.0", _new(multi_shot="true"), 1200),
    "shots that do not sum": ("kling-3.0", _new("shot 1, 2, a; shot 2, 2, b;"), 1201),
    "shots out of order": ("kling-3.0", _new("shot 1, 2, a; shot 3, 3, b;"), 1201),
    "too many shots": ("kling-3.0", _new("".join(f"shot {n}, 1, a;" for n in range(1, 8)), duration=7), 1201),
    "shot too wordy": ("kling-3.0", _new(f"shot 1, 5, {'a' * 513};"), 1201),
    "watermark not a boolean": ("kling-3.0", {"prompt": "a", "options": {"watermark_info": {"enabled": 1}}}, 1200),
}


@pytest.mark.parametrize("case", NEW_TAKEN)
def test_the_new_design_takes_what_its_table_allows(case: str, ask) -> None:
    """A body within the field table makes a task."""
    model, body = NEW_TAKEN[case]
    reply = ask("POST", f"/text-to-video/{model}", body)
    assert (reply.status, reply.code) == (200, 0), reply.json


@pytest.mark.parametrize("case", NEW_REFUSED)
def test_the_new_design_refuses_what_breaks_its_table(case: str, sim, ask) -> None:
    """A missing field or wrong type is 1200, a wrong value 1201, and no task is made."""
    model, body, code = NEW_REFUSED[case]
    reply = ask("POST", f"/text-to-video/{model}", body)
    assert (reply.status, reply.code, sim.tasks) == (400, code, [])


LEGACY_MODELS = ["v1", "v1-6", "v2-master", "v2-1-master", "v2-5-turbo", "v2-6", "v3"]
COMBINATIONS = [
    *(
        ("/v1/videos/text2video", _legacy(model_name=f"kling-{model}", mode=mode, sound=sound, duration=duration))
        for model, mode, sound, duration in itertools.product(
            LEGACY_MODELS, ["std", "pro", "4k"], ["off", "on"], ["3", "5", "10", "15"]
        )
    ),
    *(
        (f"/text-to-video/kling-{model}", _new(resolution=resolution, audio=audio, duration=duration))
        for model, resolution, audio, duration in itertools.product(
            ["3.0-turbo", "3.0", "2.6", "2.5-turbo"], ["720p", "1080p", "4k"], ["off", "native"], [3, 5, 10, 15]
        )
    ),
]


def test_every_combination_on_offer_has_a_price(sim, ask) -> None:
    """Whatever the tables let through, the price list knows; the rest is refused with 1201."""
    sim.concurrency["video"] = 1000
    answers = [ask("POST", path, body).code for path, body in COMBINATIONS]
    assert set(answers) == {0, 1201}
    assert [task for task in sim.tasks if task.order.units <= 0] == []
    assert (len(sim.tasks), len(answers)) == (answers.count(0), 264)


def test_an_order_keeps_what_was_asked_for(sim, ask) -> None:
    """The task knows prompt, callback, size and caller as they came."""
    options = {"callback_url": "https://example.com/hook", "external_task_id": "mine"}
    settings = {"audio": "native", "aspect_ratio": "9:16", "duration": 10}
    ask("POST", "/text-to-video/kling-2.6", {"prompt": "a lighthouse", "settings": settings, "options": options})
    task = sim.task("mine")
    order = task.order
    assert (order.prompt, order.callback_url, order.aspect_ratio) == ("a lighthouse", options["callback_url"], "9:16")
    assert (order.audio, order.resolution, order.seconds, task.caller) == (True, "1080p", 10, "default")


def test_every_shot_counts_for_the_content_policy(ask) -> None:
    """A marked word in one of the custom shots is refused like one in the prompt."""
    shots = [{"prompt": "one", "duration": "2"}, {"prompt": "a forbidden one", "duration": "3"}]
    reply = ask("POST", LEGACY, _custom(shots))
    assert (reply.status, reply.code) == (400, 1301)
