"""What a request says of itself before it is sent: content committed, settings kept, the rest named."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klingai_audit.capture.facts import RequestFacts
from klingai_audit.kling import intent
from klingai_audit.kling.catalogue import match
from klingai_audit.kling.endpoints import ROWS
from klingai_audit.kling.intent import describe_request
from klingai_audit.kling.rows import pick, pick_all
from klingai_audit.privacy.commitment import ToCommit

HOST = "https://api-singapore.klingai.com"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)
PNG64 = base64.b64encode(PNG).decode()


def said_of(path: str, body: object) -> dict:
    """Describe a POST."""
    url = f"{HOST}{path}"
    return describe_request(match("POST", url), RequestFacts(method="POST", url=url, body=json.dumps(body).encode()))


def test_the_typed_list_of_the_new_design():
    """Prompt, media one by one, ids of elements; nothing of it in the clear but ids."""
    said = said_of(
        "/omni-video/kling-3.0-omni",
        {
            "contents": [
                {"type": "prompt", "text": "a lake"},
                {"type": "first_frame", "url": "https://x.example/a.png", "id": "image_1"},
                {"type": "refer_image", "url": PNG64},
                {"type": "base_video", "url": "https://x.example/a.mp4"},
                {"type": "element", "element_id": 857, "id": "hero"},
                {"type": "riddle", "what": 1},
                7,
            ],
            "settings": {"resolution": "1080p", "audio": "original", "multi_shot": False, "duration": 5},
            "options": {"callback_url": "https://hooks.example/", "external_task_id": "mine", "else": 1},
            "seed": 4,
        },
    )
    assert said == {
        "generation": "new",
        "host": "api-singapore.klingai.com",
        "model": "kling-3.0-omni",
        "prompt": ToCommit("a lake"),
        "callback_url": ToCommit("https://hooks.example/"),
        "settings": {
            "resolution": "1080p",
            "sound": "original",
            "multi_shot": False,
            "duration": 5,
            "elements": ["857"],
        },
        "inputs": [
            {"field": "first_frame", "url": ToCommit("https://x.example/a.png")},
            {"field": "refer_image", "media": ToCommit(PNG, "image/png")},
            {"field": "base_video", "url": ToCommit("https://x.example/a.mp4")},
            {"field": "contents", "media": ToCommit(b'{"type":"riddle","what":1}')},
            {"field": "contents", "media": ToCommit(b"7")},
        ],
        "external_task_id": "mine",
        "other_fields": ["options.else", "seed"],
    }


def test_legacy_media_and_lists():
    """Images in lists, masks, voices and elements of an image-to-video order."""
    said = said_of(
        "/v1/videos/image2video",
        {
            "image": PNG64,
            "image_tail": "https://x.example/z.png",
            "static_mask": "not base64!",
            "dynamic_masks": [{"mask": PNG64, "trajectories": [{"x": 1, "y": 2}]}],
            "voice_list": [{"voice_id": "v1"}, {"voice_id": "v2"}],
            "element_list": [{"element_id": 12}],
            "mode": "pro",
            "note": "hush",
        },
    )
    assert said["inputs"] == [
        {"field": "image", "media": ToCommit(PNG, "image/png")},
        {"field": "image_tail", "url": ToCommit("https://x.example/z.png")},
        {"field": "static_mask", "media": ToCommit("not base64!")},
    ]
    assert isinstance(said["masks"], ToCommit)
    assert said["settings"] == {"mode": "pro", "elements": [12], "voices": ["v1", "v2"]}
    assert said["other_fields"] == ["note"]
    assert "hush" not in str(said)


@pytest.mark.parametrize(
    "path,body,committed",
    [
        ("/v1/audio/tts", {"text": "hush hush"}, ["text"]),
        (
            "/v1/audio/video-to-audio",
            {"sound_effect_prompt": "hush hush", "bgm_prompt": "hush hush"},
            ["sound_effect_prompt", "bgm_prompt"],
        ),
        ("/v1/general/custom-voices", {"voice_name": "hush hush"}, ["voice_name"]),
        (
            "/v1/general/advanced-custom-elements",
            {"element_name": "hush hush", "element_description": "hush hush"},
            ["element_name", "element_description"],
        ),
        ("/v1/videos/lip-sync", {"input": {"text": "hush hush"}}, ["text"]),
        ("/v1/images/generations", {"prompt": "hush hush", "negative_prompt": "hush hush"}, ["prompt"]),
    ],
)
def test_words_of_people_are_committed(path, body, committed):
    """Prompts, spoken texts, and the names that people give."""
    said = said_of(path, body)
    assert {name: said[name] for name in committed} == dict.fromkeys(committed, ToCommit("hush hush"))
    assert "hush" not in json.dumps(said, default=lambda value: "committed")


def test_very_many_inputs_are_counted():
    """The first 32 have commitments, the others are a number."""
    said = said_of(
        "/v1/videos/multi-image2video", {"image_list": [{"image": f"https://x.example/{i}"} for i in range(40)]}
    )
    assert (len(said["inputs"]), said["inputs_left_out"]) == (32, 8)


def test_paths_into_lists():
    """`[]` stands for each item; what has another shape gives nothing."""
    body = {"a": {"b": [{"c": 1}, {"c": None}, 7, {"c": 2}]}, "d": [1, 2]}
    assert list(pick_all(body, "a.b[].c")) == [1, 2]
    assert list(pick_all(body, "d[]")) == [1, 2]
    assert list(pick_all(body, "a[].c")) == list(pick_all(body, "d.e")) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("row", [row for row in ROWS if row.method == "POST"], ids=lambda row: row.path)
def test_every_field_of_every_row(row):
    """Whatever stands in a field of the table, nothing fails, and texts enter only as commitments or plain words."""
    paths = sorted(row.fields.paths)

    @settings(max_examples=10)
    @given(st.lists(json_values, min_size=len(paths), max_size=len(paths)))
    def check(values):
        body: dict = {}
        for path, value in zip(paths, values, strict=True):
            _plant(body, path, value)
        said = said_of(row.path.replace("{model}", "kling-9"), body)
        body = intent._decode(json.dumps(body).encode()) or {}  # infinite numbers are no JSON: nothing is kept of them
        kept, others = plainly(row, body)
        assert kept == {name: said.get("settings", {}).get(name) for name in row.fields.kept}
        assert others == said.get("other_fields", [])
        assert all((pick(body, path) in (None, "")) == (said.get(name) is None) for name, path in texts(row, body))
        json.dumps(said, default=lambda item: "committed" if isinstance(item, ToCommit) else 1 / 0)

    check()


def plainly(row, body) -> tuple[dict, list]:
    """What a row keeps and what it names, path by path: the way without anything taken apart beforehand."""
    kept = {name: intent._setting(body, path) for name, path in row.fields.kept.items()}
    known = {path.partition("[]")[0] for path in row.fields.paths}
    parents = {path[:at] for path in known for at, sign in enumerate(path) if sign == "."}
    names = [name for name in intent._names(body, frozenset(parents)) if name not in known and name not in parents]
    others = sorted(name for name in names if all(intent._NAME(part) for part in name.split(".")))
    return {name: None if value == [] else value for name, value in kept.items()}, others[: intent.MAX_NAMES]


def texts(row, body) -> list[tuple[str, str]]:
    """Names and paths of what is committed; a typed list may hold a prompt of its own."""
    return [item for item in row.fields.committed.items() if item[0] != "prompt" or not row.fields.contents]


def _plant(body: dict, path: str, value: object) -> None:
    head, _, rest = path.partition(".")
    name = head.removesuffix("[]")
    inner = value
    if rest:
        held = body.get(name)
        inner = (held[0] if isinstance(held, list) and held else held) if isinstance(held, dict | list) else {}
        inner = inner if isinstance(inner, dict) else {}
        _plant(inner, rest, value)
    body[name] = [inner] if head.endswith("[]") else inner
