"""Files as the API takes them: links as they are, images and sounds as raw base64, nothing else."""

from __future__ import annotations

import base64

import pytest

from klingai_audit.errors import StorageError, UsageError
from klingai_audit.kling.media import encode_image, encode_sound, image_size, link, sniff


def png(width: int, height: int) -> bytes:
    """Return the beginning of a PNG file."""
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


def jpeg(width: int, height: int) -> bytes:
    """Return the beginning of a JPEG file, with another segment before the frame."""
    frame = b"\xff\xc2\0\x11\x08" + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return b"\xff\xd8\xff\xe0\0\x06JFIF" + frame + bytes(8)


@pytest.mark.parametrize(
    "data,kind",
    [
        (png(1, 1), "image/png"),
        (jpeg(1, 1), "image/jpeg"),
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
        (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"\xff\xf1\x50", "audio/aac"),
        (b"\0\0\0\x18ftypM4A ", "audio/mp4"),
        (b"\0\0\0\x18ftypmp42", "video/mp4"),
        (b"", None),
        (b"hello", None),
    ],
)
def test_types_by_their_bytes(data, kind):
    """The name of a file says nothing."""
    assert sniff(data) == kind


@pytest.mark.parametrize("data", [png(640, 480), jpeg(640, 480)])
def test_image_sizes(data):
    """Width and height of both formats; a cut file has none."""
    assert image_size(data) == (640, 480)
    assert image_size(data[:12]) is None


@pytest.mark.parametrize("form", ["bytes", "path"])
def test_local_images_become_base64(tmp_path, form):
    """Bytes and paths give the same, without any prefix."""
    data = png(640, 480)
    (tmp_path / "a.png").write_bytes(data)
    assert encode_image(data if form == "bytes" else tmp_path / "a.png") == base64.b64encode(data).decode()


@pytest.mark.parametrize("text", ["https://x.example/a.png", base64.b64encode(png(1, 1)).decode()])
def test_links_and_base64_pass(text):
    """What is a link or base64 already is sent as it is."""
    assert encode_image(text) == encode_sound(text) == text


@pytest.mark.parametrize(
    "image",
    [
        png(299, 400),
        png(400, 1001),
        b"GIF89a" + bytes(20),
        b"",
        png(640, 480) + bytes(10_000_000),
        "lake.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_images_that_kling_refuses(image):
    """Too small, too long, of another type, too large, a file's name as text, a data: URL: all said before sending."""
    with pytest.raises(UsageError) as caught:
        encode_image(image)
    assert caught.value.do


def test_the_new_design_takes_more():
    """50 MB instead of 10."""
    data = png(640, 480) + bytes(10_000_000)
    assert encode_image(data, new_design=True)
    with pytest.raises(UsageError):
        encode_image(png(640, 480) + bytes(50_000_000), new_design=True)


def test_sounds(tmp_path):
    """MP3, WAV, M4A and AAC up to 5 MB."""
    data = b"ID3\x04" + bytes(100)
    assert encode_sound(data) == base64.b64encode(data).decode()
    for wrong in (png(640, 480), data + bytes(5_000_000)):
        with pytest.raises(UsageError):
            encode_sound(wrong)
    (tmp_path / "big.mp3").write_bytes(data + bytes(5_000_000))
    with pytest.raises(UsageError):
        encode_sound(tmp_path / "big.mp3")


def test_a_file_that_is_not_there(tmp_path):
    """The path is named."""
    with pytest.raises(StorageError) as caught:
        encode_image(tmp_path / "no.png")
    assert "no.png" in str(caught.value)


@pytest.mark.parametrize("url", ["/tmp/a.mp4", b"x", None, "ftp://x.example/a.mp4"])
def test_videos_are_links(url):
    """There is no upload of videos."""
    assert link("https://x.example/a.mp4") == "https://x.example/a.mp4"
    with pytest.raises(UsageError):
        link(url)
