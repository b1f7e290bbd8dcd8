"""Whatever is sent, the simulator answers in its own words: it never breaks."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from klingai_audit.kling.simulator import ManualClock, Request, Simulator
from klingai_audit.kling.simulator.messages import ERROR_CODES
from klingai_audit.kling.simulator.products import PRODUCTS
from klingai_audit.kling.simulator.routes import FIXED
from tests.unit.kling.simulator.golden import load

PATHS = sorted({*PRODUCTS, *FIXED})
NAMES = [
    "prompt", "model_name", "mode", "duration", "sound", "cfg_scale", "camera_control", "type", "config", "pan",
    "multi_shot", "shot_type", "multi_prompt", "index", "settings", "resolution", "audio", "aspect_ratio", "options",
    "external_task_id", "watermark_info", "enabled", "cursor", "limit", "filters", "key", "values", "start_time",
    "end_time", "contents", "text", "url", "id", "image",
    "image_list", "video_url", "video_id", "voice_id", "n", "session_id",
    "face_choose", "points", "x", "y", "frame_index", "element_id", "tag_list", "tag_id", "input", "images",
    "series_amount", "result_type",
]  # fmt: skip
WORDS = [
    "kling-v3", "kling-v2-6", "pro", "5", "10", "on", "native", "simple", "customize", "720p", "status", "failed",
    "prompt", "first_frame", "QUJD", "https://example.com/a.mp4", "auto", "series", "product_type", "video",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from([*WORDS, 3, 5, 10])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)),
    max_leaves=12,
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=8).map(lambda value: json.dumps(value).encode()),
)


GOOD = [(row["path"], row["body"]) for row in load("products")["products"]]


def _spoil(draw: st.DrawFn, value: object) -> object:
    """Replace one value somewhere inside by any other."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        name = draw(st.sampled_from(sorted(value)))
        return {**value, name: _spoil(draw, value[name])}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [_spoil(draw, value[0]), *value[1:]]
    return draw(VALUES)


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good create with one wrong value, and its path."""
    path, body = draw(st.sampled_from(GOOD))
    return path, json.dumps(_spoil(draw, body)).encode()


def _ask(method: str, path: str, query: str, body: bytes, authorization: str) -> tuple[int, dict[str, object]]:
    sim = Simulator(ManualClock(1781080778802))
    headers = {"authorization": authorization}
    response = sim.handle(Request(method, path, query, headers, body)).response
    assert response is not None
    return response.status, json.loads(response.body)


def _is_documented(status: int, envelope: dict[str, object]) -> bool:
    code = envelope["code"]
    return (status, code) == (200, 0) or ERROR_CODES.get(code, (0, ""))[0] == status


@given(path=st.sampled_from(PATHS), body=BODIES)
def test_any_body_gets_a_documented_answer(path: str, body: bytes) -> None:
    """Success, or a business code under its HTTP status."""
    assert _is_documented(*_ask("POST", path, "", body, "Bearer sim-api-key"))


@given(create=spoiled())
def test_a_nearly_good_body_gets_a_documented_answer(create: tuple[str, bytes]) -> None:
    """One wrong value in a good body is refused or harmless, never a breakdown."""
    assert _is_documented(*_ask("POST", create[0], "", create[1], "Bearer sim-api-key"))


@given(path=st.text(max_size=30), query=st.text(max_size=30), single=st.booleans())
def test_any_path_and_query_gets_a_documented_answer(path: str, query: str, single: bool) -> None:
    """Odd paths and ids are refused, not stumbled over."""
    start = "/v1/videos/text2video/" if single else "/"
    assert _is_documented(*_ask("GET", start + path, query, b"", "Bearer sim-api-key"))


@given(names=st.dictionaries(st.sampled_from(["task_ids", "external_task_ids", "pageNum", "pageSize"]), st.text()))
def test_any_query_value_gets_a_documented_answer(names: dict[str, str]) -> None:
    """Ids and page numbers can be any text."""
    query = "&".join(f"{name}={value}" for name, value in names.items())
    for path in ("/tasks", "/v1/videos/text2video"):
        assert _is_documented(*_ask("GET", path, query, b"", "Bearer sim-api-key"))


@given(
    value=st.one_of(
        st.text(max_size=40),
        st.lists(st.text(max_size=8), min_size=3, max_size=3).map(".".join),
        st.lists(st.sampled_from(["e30", "eyJhbGciOiJIUzI1NiJ9", "W10", "bnVsbA", ""]), min_size=2, max_size=4).map(
            ".".join
        ),
    )
)
def test_any_credential_but_a_good_one_is_refused(value: str) -> None:
    """Broken tokens are 401 with one of the documented codes."""
    status, envelope = _ask("GET", "/v1/videos/text2video", "", b"", f"Bearer {value}")
    assert (status, envelope["code"] in (1001, 1002, 1003, 1004)) == (401, True)
