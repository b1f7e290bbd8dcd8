"""Images and sounds are genuine files: read here chunk by chunk, and by ffprobe where it is installed."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import wave
import zlib
from pathlib import Path

import pytest

from klingai_audit.kling.simulator import picture, sound

FFPROBE = shutil.which("ffprobe")


@pytest.mark.parametrize("ratio, size", [("16:9", (96, 54)), ("9:16", (54, 96)), ("1:1", (96, 96)), ("21:9", (96, 41))])
def test_a_picture_is_a_png(ratio: str, size: tuple[int, int]) -> None:
    """Every chunk has its checksum, and the data is one filtered line of RGB per row."""
    data = picture.render(b"seed", ratio)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        payload = data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + payload)
        chunks[kind], at = payload, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (*size, 8, 2, 0, 0, 0)
    lines = zlib.decompress(chunks[b"IDAT"])
    assert (len(lines), set(lines[:: 3 * size[0] + 1])) == (size[1] * (3 * size[0] + 1), {0})


@pytest.mark.parametrize("seconds", [1.0, 4.5, 10.0])
def test_a_wav_has_its_length(seconds: float) -> None:
    """16 bit mono at 8 kHz, as long as asked for, and not silent."""
    with wave.open(io.BytesIO(sound.wav(b"seed", seconds))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert file.getnframes() == round(seconds * 8000)
        samples = struct.unpack(f"<{file.getnframes()}h", file.readframes(file.getnframes()))
    assert (max(samples), min(samples)) == (8000, -8000)


@pytest.mark.parametrize("seconds", [1.0, 4.5, 10.0])
def test_an_mp3_has_its_length(seconds: float) -> None:
    """After the title every frame has its sync word and its length, 24 ms each."""
    data = sound.mp3(b"seed", seconds)
    assert data[:5] == b"ID3\x03\x00"
    tag = sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    frames = data[10 + tag :]
    heads = [struct.unpack_from(">I", frames, at)[0] for at in range(0, len(frames), 96)]
    assert (len(frames) % 96, {head >> 16 for head in heads}) == (0, {0xFFFB})
    bitrate, rate = (32, 48_000) if (heads[0] >> 12 & 15, heads[0] >> 10 & 3) == (1, 1) else (0, 0)
    assert 144 * bitrate * 1000 // rate == 96
    assert abs(len(heads) * 0.024 - seconds) < 0.024


def test_other_seeds_make_other_files() -> None:
    """The same seed gives the same bytes, each of forty others its own."""
    makers = [
        lambda seed: picture.render(seed, "1:1"),
        lambda seed: sound.wav(seed, 1),
        lambda seed: sound.mp3(seed, 1),
    ]
    assert [make(b"a") == make(b"a") for make in makers] == [True] * 3
    assert [len({make(bytes([number])) for number in range(40)}) for make in makers] == [40] * 3


@pytest.mark.skipif(FFPROBE is None, reason="ffprobe is not installed")
@pytest.mark.parametrize("form, codec", [("png", "png"), ("wav", "pcm_s16le"), ("mp3", "mp3")])
def test_a_player_takes_it(form: str, codec: str, tmp_path: Path) -> None:
    """ffprobe decodes every frame without a complaint and finds the length."""
    made = {"png": picture.render(b"s", "4:3"), "wav": sound.wav(b"s", 3.0), "mp3": sound.mp3(b"s", 3.0)}
    file = tmp_path / f"result.{form}"
    file.write_bytes(made[form])
    command = [FFPROBE, "-v", "error", "-count_frames", "-show_streams", "-of", "json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (stream,) = json.loads(done.stdout)["streams"]
    assert (done.stderr, stream["codec_name"]) == ("", codec)
    assert form == "png" or abs(float(stream["duration"]) - 3.0) < 0.05


def test_each_result_comes_in_its_form(ask, clock) -> None:
    """Images, sounds in both forms, a voice's trial, an element's pictures and presets can all be fetched."""
    ask("POST", "/v1/images/generations", {"prompt": "a", "aspect_ratio": "21:9"})
    ask("POST", "/v1/audio/text-to-audio", {"prompt": "a", "duration": 3})
    ask("POST", "/v1/general/custom-voices", {"voice_name": "a", "voice_url": "https://example.com/a.mp3"})
    clock.advance(30)
    image = ask("GET", "/v1/images/generations").data[0]["task_result"]["images"][0]
    audio = ask("GET", "/v1/audio/text-to-audio").data[0]["task_result"]["audios"][0]
    voice = ask("GET", "/v1/general/custom-voices").data[0]["task_result"]["voices"][0]
    preset = ask("GET", "/v1/general/presets-voices").data[0]["task_result"]["voices"][0]
    element = ask("GET", "/v1/general/presets-elements").data[0]
    urls = [image["url"], audio["url_mp3"], audio["url_wav"], voice["trial_url"], preset["trial_url"]]
    replies = [ask.media(url) for url in [*urls, element["element_frontal_image"]]]
    assert [reply.status for reply in replies] == [200] * 6
    assert [reply.headers["content-type"] for reply in replies] == [
        "image/png", "audio/mpeg", "audio/wav", "audio/wav", "audio/wav", "image/png",
    ]  # fmt: skip
    assert [reply.body[:4] for reply in replies[:3]] == [b"\x89PNG", b"ID3\x03", b"RIFF"]
