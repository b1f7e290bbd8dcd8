"""The file of producers: who is known by which token, and what each may claim."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, KlingAuditError, UnsafePermissions, UsageError
from klingai_audit.event.record import Draft
from klingai_audit.ingest import producers as room
from klingai_audit.ingest.producers import Producer, ProducerFile, Producers, new_token, sample
from tests.support.ingesting import FARM, LOG, PRODUCERS, digest


def made(text: str = PRODUCERS) -> Producers:
    return Producers.parse(text.encode(), "producers.toml")


def farm() -> Producer:
    found = made().of(FARM)
    assert found is not None
    return found


def test_tokens_name_producers() -> None:
    """By their digests; another token, or the digest itself, names nobody."""
    found = made()
    assert ["render-farm", "other-log"] == [found.by_token[digest(token)].name for token in (FARM, LOG)]
    assert [None] * 3 == [found.of(token) for token in ("", digest(FARM), FARM + " ")]
    assert ("other-log", "render-farm") == found.names
    assert FARM not in repr(found)


@pytest.mark.parametrize(
    ("claim", "place"),
    [
        ({}, None),
        ({"actor_id": "Someone@Studio.Example"}, None),
        ({"actor_id": " render-7 "}, None),
        ({"actor_id": "someone@studio.example.org"}, "/actor_id"),
        ({"actor_id": "x@studio.example\n"}, None),
        ({"actor_id": "x@studio.example\nboss@other.example"}, "/actor_id"),
        ({"actor_id": "Render-7"}, "/actor_id"),
        ({"actor_id": "unknown"}, "/actor_id"),
        ({"actor_id": "p_dgNjYTLnbM0TKOpRK_iAJw"}, "/actor_id"),
        ({"actor_id": "render-1", "on_behalf_of": "customer-2"}, None),
        ({"actor_id": "render-1", "on_behalf_of": "someone@studio.example"}, "/on_behalf_of"),
        ({"event_type": "video_generation_started"}, None),
        ({"event_type": "generation_started"}, None),
        ({"event_type": "audio_deleted"}, "/event_type"),
        ({"event_type": "user_added"}, "/event_type"),
        ({"event_type": "x_a\nuser_added"}, None),  # no event type at all: the door says so
    ],
)
def test_claims(claim: dict[str, str], place: str | None) -> None:
    """Exact names and patterns; ids as the log compares them."""
    fault = farm().fault(Draft(**{"event_type": "x_a", **claim}))
    assert place == (None if fault is None else fault.partition(":")[0])


def test_brackets_are_no_patterns() -> None:
    """Only * and ? are special."""
    text = PRODUCERS.replace('"render-*"', '"[a-z]", "render-*"')
    found = made(text).of(FARM)
    assert found is not None
    assert found.fault(Draft(event_type="x_a", actor_id="[a-z]")) is None
    assert found.fault(Draft(event_type="x_a", actor_id="b")) is not None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('event_types = ["*"]', "", "event_types"),
        ('event_types = ["*"]', "event_types = []", "event_types"),
        ('event_types = ["*"]', 'event_types = ["log_*"]', "names no type that can be claimed"),
        ('event_types = ["*"]', 'event_types = ["subject_erased"]', "names no type that can be claimed"),
        ('event_types = ["*"]', 'event_types = ["vidoe_*"]', "names no type that can be claimed"),
        ('event_types = ["*"]', 'event_types = ["*"]\nactor_types = ["admin"]', "actor_types"),
        ("[producers.other-log]", "[producers.'Other Log']", "name is of"),
        ("[producers.other-log]", "[producers.'10-0-0-1 x']", "name is of"),
        (digest(LOG), digest(FARM), "stands there twice"),
        (digest(LOG), LOG, "is not of its form"),
        (digest(LOG), digest(LOG).upper(), "is not of its form"),
        ('actor = "render-farm"', 'actor = "boss@other.example"', "is not among its actors"),
        ("[producers.other-log]", "[producers.other-log", "is not TOML"),
        (PRODUCERS, "", "producers"),
        (PRODUCERS, "[producers]", "producers"),
    ],
)
def test_what_does_not_fit_is_refused(old: str, new: str, words: str) -> None:
    """The message says where, and repeats no token."""
    with pytest.raises(UsageError, match=words) as caught:
        made(PRODUCERS.replace(old, new, 1))
    assert LOG not in str(caught.value)


def test_a_new_token_fits_its_sample() -> None:
    """What is printed for the file is a file."""
    token, token_digest = new_token()
    found = made(sample("render-farm", token_digest)).of(token)
    assert found is not None
    assert ("render-farm", None) == (found.name, found.fault(Draft(event_type="x_a", actor_id="render-farm")))
    assert token != new_token()[0]
    with pytest.raises(UsageError):
        sample("Render farm", token_digest)


def test_a_change_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good file comes into force, a bad one and one that may not be recorded do not; each is told once."""
    monkeypatch.setattr(room, "LOOK_S", 0)
    path = tmp_path / "producers.toml"
    path.write_text(PRODUCERS)
    seen: list[tuple[str, ...]] = []
    told: list[str] = []
    refusing: list[KlingAuditError] = []

    def changed(new: Producers) -> None:
        if refusing:
            raise refusing[0]
        seen.append(new.names)

    file = ProducerFile(path, changed=changed, told=lambda error: told.append(error.message))
    assert file.current().of(LOG) is not None
    path.write_text("[producers")
    assert file.current().of(LOG) is not None
    assert file.current().of(LOG) is not None
    assert [f"{path} is not TOML in UTF-8."] == told
    path.write_text(PRODUCERS.partition("[producers.other-log]")[0])
    assert file.current().of(LOG) is None
    assert [("other-log", "render-farm"), ("render-farm",)] == seen
    os.utime(path, (1, 1))
    assert file.current().of(FARM) is not None
    assert 2 == len(seen)
    refusing.append(UsageError("not recorded"))
    path.write_text(PRODUCERS)
    assert file.current().of(LOG) is None
    assert "not recorded" == told[-1]
    path.unlink()
    assert file.current().of(FARM) is not None
    assert f"There is no file {path}." == told[-1]


def test_what_could_not_be_recorded_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is shut out while the log cannot be reached is out when it can be, without another change of the file."""
    monkeypatch.setattr(room, "LOOK_S", 0)
    monkeypatch.setattr(room, "RETRY_S", 0)
    path = tmp_path / "producers.toml"
    path.write_text(PRODUCERS)
    away: list[KlingAuditError] = []
    told: list[str] = []

    def changed(_new: Producers) -> None:
        if away:
            raise away[0]

    file = ProducerFile(path, changed=changed, told=lambda error: told.append(error.message))
    away.append(AuditUnavailable("The log is away."))
    path.write_text(PRODUCERS.partition("[producers.other-log]")[0])
    assert [file.current().of(LOG) is not None for _ in range(3)] == [True] * 3
    assert ["The log is away."] == told
    away.clear()
    assert file.current().of(LOG) is None
    assert ["The log is away."] == told


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    """Whoever may write it decides who is believed."""
    path = tmp_path / "producers.toml"
    with pytest.raises(UsageError, match="There is no file"):
        ProducerFile(path)
    path.write_text(PRODUCERS)
    path.chmod(0o666)
    with pytest.raises(UnsafePermissions, match="may be written by others"):
        ProducerFile(path)
    path.chmod(0o640)
    assert ("other-log", "render-farm") == ProducerFile(path).current().names
