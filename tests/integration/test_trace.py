"""`trace FILE`: which generation a file came out of, or went into."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.event.record import Draft
from klingai_audit.log import AuditLog
from klingai_audit.privacy.commitment import ToCommit

TASK = "831234567890123456"
VIDEO, PICTURE = b"a video as delivered", b"\x89PNG a reference picture"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which a picture was handed in and a video delivered."""
    folder = tmp_path_factory.mktemp("trace")
    with AuditLog.open(folder / "audit") as audit:
        handed_in = Draft(
            event_type="prompt_submitted",
            actor_id="user@example.com",
            correlation_id="one",
            metadata={"inputs": [{"field": "image", "media": ToCommit(PICTURE, "image/png")}]},
        )
        audit.record(handed_in)
        audit.log("video_generation_started", "user@example.com", "video", resource_id=TASK, correlation_id="one")
        audit.log(
            "video_downloaded",
            "user@example.com",
            "video",
            resource_id=TASK,
            correlation_id="one",
            metadata={"sha256": hashlib.sha256(VIDEO).hexdigest(), "bytes": len(VIDEO)},
        )
        audit.log("x_note", "user@example.com", metadata={"other": {"bytes": len(PICTURE), "commitment": "A" * 43}})
    (folder / "video.mp4").write_bytes(VIDEO)
    (folder / "picture.png").write_bytes(PICTURE)
    (folder / "other.png").write_bytes(PICTURE[::-1])
    return folder


def ask(place: Path, capfd: pytest.CaptureFixture[str], file: str, *more: str) -> tuple[int, str]:
    code = run(["trace", str(place / file), "--log", str(place / "audit"), *more])
    return code, capfd.readouterr().out


@pytest.mark.parametrize(
    ("file", "role", "seq", "pointer"),
    [
        ("video.mp4", "delivered", 4, "/metadata/sha256"),
        ("picture.png", "handed_in", 2, "/metadata/inputs/0/media"),
    ],
)
def test_a_file_leads_to_its_generation(
    place: Path, capfd: pytest.CaptureFixture[str], file: str, role: str, seq: int, pointer: str
) -> None:
    """Delivered or handed in, the entry and the task's whole story are found."""
    code, out = ask(place, capfd, file, "--json")
    found = json.loads(out)
    (sighting,) = found["sightings"]
    assert (0, True, True) == (code, found["found"], found["inputs_checked"])
    assert (role, seq, pointer) == (sighting["role"], sighting["seq"], sighting["pointer"])
    assert [{"task": TASK, "seqs": [2, 3, 4]}] == found["tasks"]


def test_people_read_a_sentence_and_the_story(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Masked, with the entry to look at."""
    code, out = ask(place, capfd, "video.mp4")
    assert 0 == code
    assert f"delivered by video {TASK} (entry 4, video_downloaded by us***@example.com" in out
    assert f"Task {TASK}" in out


def test_an_unknown_file_is_exit_1(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A file of the same length as one that was handed in is still another file."""
    code, out = ask(place, capfd, "other.png", "--json")
    assert (1, []) == (code, json.loads(out)["sightings"])


def test_without_the_subject_table_inputs_are_not_searched(
    place: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The answer says so; delivered files are found by anyone."""
    elsewhere = ("--json", "--keys", str(tmp_path / "keys"), "--state", str(tmp_path / "state"))
    code, out = ask(place, capfd, "picture.png", *elsewhere)
    assert (1, False) == (code, json.loads(out)["inputs_checked"])
    assert 0 == ask(place, capfd, "video.mp4", *elsewhere)[0]


def test_what_cannot_be_read_is_exit_2(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence names the file."""
    assert 2 == run(["trace", str(place / "none"), "--log", str(place / "audit")])
    assert "cannot be read: No such file or directory." in capfd.readouterr().err
