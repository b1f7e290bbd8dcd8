"""What callers hand in: addresses, base64, and real pictures when the simulator is strict."""

from __future__ import annotations

import base64
import struct

import pytest

from klingai_audit.kling.simulator.inputs import MEGABYTE, assumed_seconds, media_problem, picture_size
from klingai_audit.kling.simulator.picture import render

IMAGE = "/v1/images/generations"


def _png(width: int, height: int) -> bytes:
    """A PNG's head with these sides; nobody reads further."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def _jpeg(width: int, height: int) -> bytes:
    """A JPEG with one application segment before its frame header."""
    return b"\xff\xd8\xff\xe0\x00\x04ab\xff\xc0\x00\x11\x08" + struct.pack(">HH", height, width) + b"\x03"


@pytest.mark.parametrize("data, size", [(_png(300, 400), (300, 400)), (_jpeg(640, 480), (640, 480)), (b"GIF89a", None)])
def test_a_picture_tells_its_size(data: bytes, size: tuple[int, int] | None) -> None:
    """PNG and JPEG are read, other formats are not pictures."""
    assert picture_size(data) == size


def test_the_simulators_own_pictures_are_pictures() -> None:
    """What the simulator makes it can read."""
    assert picture_size(render(b"seed", "16:9")) == (96, 54)


@pytest.mark.parametrize("cut", range(17))
def test_a_cut_picture_is_none(cut: int) -> None:
    """The beginning of a file has no size, and asking does not fail."""
    assert [picture_size(data[:cut]) for data in (_png(300, 300), _jpeg(300, 300))] == [None, None]


def test_base64_is_measured_decoded() -> None:
    """Ten megabytes of picture fit, one byte more does not."""
    fits = base64.b64encode(bytes(10 * MEGABYTE)).decode()
    over = base64.b64encode(bytes(10 * MEGABYTE + 6)).decode()
    assert media_problem("image", fits, 10 * MEGABYTE, strict=False) is None
    assert media_problem("image", over, 10 * MEGABYTE, strict=False) == "exceeds 10 MB"


@pytest.mark.parametrize(
    "picture, code",
    [
        (_png(300, 750), 0),
        (_jpeg(1000, 400), 0),
        (_png(299, 400), 1201),
        (_png(300, 751), 1201),
        (b"GIF89a", 1201),
    ],
    ids=["tallest", "widest", "too narrow", "too tall", "no picture"],
)
def test_a_strict_simulator_looks_at_pictures(picture: bytes, code: int, sim, ask) -> None:
    """Sides from 300 pixels, ratios up to 2.5, PNG and JPEG; nested and flat fields alike."""
    sim.strict_media = True
    text = base64.b64encode(picture).decode()
    contents = [{"type": "first_frame", "url": text}]
    assert ask("POST", IMAGE, {"prompt": "a", "image": text}).code == code
    assert ask("POST", "/image-to-video/kling-2.6", {"contents": contents}).code == code
    assert ask("POST", "/v1/videos/multi-image2video", {"prompt": "a", "image_list": [{"image": text}]}).code == code


@pytest.mark.parametrize(
    "address, seconds",
    [
        ("https://example.com/a.mp4", 5),
        ("https://example.com/a.mp4?seconds=7.5", 7.5),
        ("https://example.com/a.mp4?seconds=-3", 5),
        ("https://[/a.mp4?seconds=7", 5),
        ("QUJD", 5),
    ],
)
def test_lengths_are_assumed(address: str, seconds: float) -> None:
    """An input's length is what its address says, by default 5 seconds: nothing is fetched."""
    assert assumed_seconds(address) == seconds
