"""Unsealing: on the record first, then opened; what is refused is said and recorded; an opening proves it to others."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.capture.desk import UnrecordedWarning
from klingai_audit.errors import (
    AuditUnavailable,
    InvalidProof,
    InvalidSignature,
    KlingAuditError,
    LogNotFound,
    Malformed,
    UsageError,
    VerificationError,
)
from klingai_audit.privacy.unseal_key import UnsealKey
from klingai_audit.testing import HandClock
from klingai_audit.tlog.keys import SignerKey, VerifierKey
from klingai_audit.trust.openings import check_opening_file, origin_of_opening
from klingai_audit.upkeep.admin import Administration
from klingai_audit.upkeep.retention import apply_retention
from klingai_audit.upkeep.unseal import make_unseal_key, unseal
from tests.support.faulty import FaultyOps, QuickOps

LAKE = "A serene mountain lake at sunrise"
OFFICER = "officer@example.com"
POLICY = "[vault]\nseal = ['prompt', 'image', 'text']\n"
WHY = "complaint 17"


class World:
    """A log whose policy has prompts sealed, with one prompt in it."""

    def __init__(self, folder: Path, policy: str = POLICY, **options: Any) -> None:
        self.folder = folder
        self.options = {"ops": QuickOps(), **options}
        self.keys = folder / "audit.keys"
        AuditLog.open(folder / "audit", **self.options).close()
        make_unseal_key(self.keys)
        (self.keys / "policy.toml").write_text(policy)
        self.audit = self.open()

    def open(self) -> AuditLog:
        return AuditLog.open(self.folder / "audit", **self.options)

    def prompt(self, **metadata: Any) -> int:
        """Log a prompt of a user; returns its index."""
        given = metadata or {"prompt": LAKE, "negative_prompt": "blur", "model": "kling-2.6"}
        with acting("user@example.com"):
            seq = self.audit.log("prompt_submitted", metadata=given).wait("published").seq
        assert seq is not None
        return seq

    def told(self, event_type: str) -> list[dict[str, Any]]:
        """The entries of a type."""
        self.audit.flush("published")
        entries = [json.loads(line) for line in self.audit.reader.entries()]
        return [entry for entry in entries if entry["event_type"] == event_type]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with acting(OFFICER):
        yield made
    made.audit.close()


def test_it_is_on_the_record_before_it_is_open(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry names what, of whom, why and by whom, and is under a signed checkpoint when the vault is opened."""
    seq = world.prompt()
    vault, published = world.audit.vault, []
    real = vault.open

    def watched(*given: Any) -> bytes:
        published.append(world.audit.reader.size)
        return real(*given)

    monkeypatch.setattr(vault, "open", watched)
    done = unseal(world.audit, seq, "prompt", reason=f" {WHY} ")
    (entry,) = world.told("content_unsealed")
    assert (LAKE, LAKE, "/metadata/prompt", None) == (done.text, done.value.decode(), done.pointer, done.type)
    assert (entry["seq"], [entry["seq"] + 1]) == (done.recorded, published)
    prompt = json.loads(world.audit.reader.entry(seq))
    subject = prompt["actor_id"]
    assert {"seq": seq, "event_id": done.event_id, "field": "/metadata/prompt", "reason": WHY,
            "subject": subject} == entry["metadata"]  # fmt: skip
    who = world.audit.subjects.find(OFFICER)
    assert who is not None
    assert (who.pseudonym, "entry", str(seq), "unseal") == tuple(
        entry[name] for name in ("actor_id", "resource_type", "resource_id", "action")
    )
    assert (prompt["event_id"], True) == (done.event_id, world.audit.verify().integrity_ok)
    assert LAKE not in repr(done)


def test_anyone_with_the_logs_key_checks_an_opening(world: World) -> None:
    """The entry is in the log, and commits to exactly this content."""
    seq = world.prompt()
    opening = unseal(world.audit, seq, "/metadata/prompt", reason=WHY).opening
    key = VerifierKey.parse(world.audit.vkey)
    opened = check_opening_file(opening, [key])
    assert (LAKE.encode(), seq, "/metadata/prompt") == (opened.value, opened.proven.index, opened.pointer)
    assert (world.audit.origin, world.audit.reader.entry(seq)) == (origin_of_opening(opening), opened.proven.entry)
    assert LAKE not in repr(opened)
    other = SignerKey.generate(world.audit.origin).verifier
    with pytest.raises(InvalidSignature):
        check_opening_file(opening, [other])


def test_an_opening_that_was_changed_proves_nothing(world: World) -> None:
    """Another content, salt, place, entry, or a file that is none; no error repeats the content."""
    seq = world.prompt(prompt=LAKE, text="other words")
    key = VerifierKey.parse(world.audit.vkey)
    told = json.loads(unseal(world.audit, seq, "prompt", reason=WHY).opening)
    other = json.loads(unseal(world.audit, world.prompt(), "prompt", reason=WHY).opening)
    zeros = base64.b64encode(bytes(32)).decode()
    wrong: list[tuple[dict[str, Any], type[VerificationError]]] = [
        ({"value": LAKE + "."}, InvalidProof), ({"salt": zeros}, InvalidProof), ({"salt": "AA=="}, Malformed),
        ({"pointer": "/metadata/text"}, InvalidProof), ({"pointer": "/metadata/none"}, InvalidProof),
        ({"seq": seq + 1}, InvalidProof), ({"event_id": other["event_id"]}, InvalidProof),
        ({"commitment": other["commitment"]}, InvalidProof), ({"proof": other["proof"]}, InvalidProof),
        ({"value_base64": "AAAA"}, Malformed), ({"more": 1}, Malformed), ({"value": None}, Malformed),
        ({"format": "klingai-audit/opening/v2"}, Malformed), ({"proof": "none"}, Malformed),
        ({"salt": zeros[:-2] + "B="}, Malformed),
    ]  # fmt: skip
    for changes, error in wrong:
        with pytest.raises(error) as caught:
            check_opening_file(json.dumps({**told, **changes}).encode(), [key])
        assert LAKE not in str(caught.value), changes
    for data in (b"", b"{}", b"[" * 100_000, b"\xff", json.dumps(told).encode() + b"x"):
        with pytest.raises(Malformed):
            check_opening_file(data, [key])
    assert check_opening_file(json.dumps(told).encode(), [key]).value.decode() == LAKE


def test_content_that_is_no_text_opens_too(world: World) -> None:
    """As bytes, with its media type; in the opening in base64."""
    from klingai_audit.privacy.commitment import ToCommit

    picture = b"\x89PNG\r\n\xff"
    done = unseal(world.audit, world.prompt(image=ToCommit(picture, "image/png")), "image", reason=WHY)
    assert (picture, "image/png", None) == (done.value, done.type, done.text)
    told = json.loads(done.opening)
    assert (base64.b64encode(picture).decode(), False) == (told["value_base64"], "value" in told)
    assert check_opening_file(done.opening, [VerifierKey.parse(world.audit.vkey)]).value == picture


def test_a_name_that_stands_there_twice_is_asked_back(world: World) -> None:
    """With the pointers to choose from; nothing is recorded for a slip."""
    seq = world.prompt(prompt="one", shots=[{"prompt": "two"}, {"a/b~c": {"text": "three"}}])
    with pytest.raises(UsageError, match="/metadata/prompt, /metadata/shots/0/prompt"):
        unseal(world.audit, seq, "prompt", reason=WHY)
    assert unseal(world.audit, seq, "/metadata/shots/0/prompt", reason=WHY).text == "two"
    assert unseal(world.audit, seq, "text", reason=WHY).pointer == "/metadata/shots/1/a~1b~0c/text"
    for name, reason in (("model", WHY), ("/metadata/none", WHY), ("/metadata/prompt", "  "), ("prompt", "x" * 1001)):
        with pytest.raises(UsageError):
            unseal(world.audit, seq, name, reason=reason)
    with pytest.raises(UsageError, match="no entry 9999"):
        unseal(world.audit, 9999, "prompt", reason=WHY)
    assert (2, []) == (len(world.told("content_unsealed")), world.told("access_denied"))


def refused(world: World, seq: int, name: str, error: type[KlingAuditError], why: str, **options: Any) -> None:
    """It is refused, and an entry says so and why."""
    before = len(world.told("content_unsealed"))
    with pytest.raises(error) as caught:
        unseal(world.audit, seq, name, reason=WHY, **options)
    assert LAKE not in str(caught.value)
    entry = world.told("access_denied")[-1]
    assert (seq, WHY, why, "blocked", "unseal", str(seq)) == (
        *(entry["metadata"][name] for name in ("seq", "reason", "why")), entry["outcome"], entry["action"],
        entry["resource_id"],
    )  # fmt: skip
    assert before + (why == "does_not_open") == len(world.told("content_unsealed"))


def test_every_refusal_is_recorded_with_its_reason(world: World, tmp_path: Path) -> None:
    """No key, nothing sealed, an erased person, another key, a changed file."""
    seq = world.prompt()
    refused(world, seq, "prompt", LogNotFound, "no_key", unseal_key=tmp_path / "none")
    refused(world, seq, "negative_prompt", UsageError, "not_sealed")
    other = tmp_path / "other.key"
    other.write_text(UnsealKey.generate().format() + "\n")
    other.chmod(0o600)
    refused(world, seq, "prompt", UsageError, "does_not_open", unseal_key=other)
    (file,) = world.audit.vault.path.rglob("*.sealed")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refused(world, seq, "prompt", VerificationError, "does_not_open")
    assert world.audit.vault.erase(world.told("prompt_submitted")[0]["actor_id"]) == 1
    refused(world, seq, "prompt", UsageError, "not_sealed")


def test_what_an_erased_person_wrote_stays_shut(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the person's key the file that is still there opens for nobody."""
    seq = world.prompt()
    gone = world.told("prompt_submitted")[0]["actor_id"]
    table = world.audit.subjects
    real_get, real_find = table.get, table.find
    monkeypatch.setattr(table, "get", lambda name: None if name == gone else real_get(name))
    monkeypatch.setattr(table, "find", lambda name: None if name == gone else real_find(name))
    refused(world, seq, "prompt", UsageError, "erased")


def test_a_purged_entry_has_nothing_to_open(tmp_path: Path) -> None:
    """What was sealed went with it; it says which entry authorised that, and the attempt is recorded."""
    clock = HandClock()
    world = World(tmp_path, POLICY + "[retention]\nminimum = '1d'\nmaximum = '3d'\nseal_after = '1d'\n", clock=clock)
    with acting(OFFICER):
        seq = world.prompt()
        for _ in range(6):
            clock.advance(86_400)
            world.audit.log("x_day").wait()
        assert world.audit.vault.usage().contents == 1
        applied = apply_retention(world.audit, today=clock.now.date())
        assert world.audit.vault.usage().contents == 0
        assert applied.purged > 0
        with pytest.raises(UsageError, match=f"Entry {seq} was purged; entry {applied.authorised_by[0]}"):
            unseal(world.audit, seq, "prompt", reason=WHY)
        assert ["purged"] == [entry["metadata"]["why"] for entry in world.told("access_denied")]
    world.audit.close()


def test_what_cannot_be_recorded_is_not_opened(tmp_path: Path) -> None:
    """By default; where the policy says `warn` it is, with a warning, and its entry follows behind the gap."""
    for policy in ("refuse", "warn"):
        folder = tmp_path / policy
        folder.mkdir()
        ops = FaultyOps()
        world = World(folder, POLICY + f"[failure]\nunseal = '{policy}'\n", ops=ops)
        with acting(OFFICER):
            seq = world.prompt()
            ops.fails = lambda call: call.name in ("write", "write_at") and call.about.endswith(".jsonl")
            if policy == "refuse":
                with pytest.raises(AuditUnavailable):
                    unseal(world.audit, seq, "prompt", reason=WHY)
                assert [] == world.told("content_unsealed")
            else:
                with pytest.warns(UnrecordedWarning):
                    done = unseal(world.audit, seq, "prompt", reason=WHY)
                assert (LAKE, None) == (done.text, done.recorded)
                ops.fails = None
                world.audit.recorder.desk.catch_up()
                assert [seq] == [entry["metadata"]["seq"] for entry in world.told("content_unsealed")]
                assert [1] == [len(world.told("gap_closed"))]
            ops.fails = None
        world.audit.close()


@pytest.mark.slow
def test_a_policy_that_seals_needs_a_key_first(tmp_path: Path) -> None:
    """Opening the log and setting the policy say so; with a key both go, and other logs are told of no vault."""
    AuditLog.open(tmp_path / "audit").close()
    keys = tmp_path / "audit.keys"
    with AuditLog.open(tmp_path / "audit") as audit, pytest.raises(UsageError, match="keys unseal-init"):
        Administration(audit).set_policy("vault.seal", ["prompt"])
    make_unseal_key(keys)
    with AuditLog.open(tmp_path / "audit") as audit, acting(OFFICER):
        Administration(audit).set_policy("vault.seal", ["prompt"])
    (keys / "unseal.key").unlink()
    with AuditLog.open(tmp_path / "audit") as audit:
        audit.log("prompt_submitted", OFFICER, metadata={"prompt": LAKE})
    assert AuditLog.open(tmp_path / "audit", vault=tmp_path / "elsewhere").close() is None
    with AuditLog.open(tmp_path / "audit") as audit:
        changed = [entry.metadata["changed"] for entry in audit.query(event_type="settings_changed")]
    assert ["vault"] == [name for change in changed for name in change][:1]
    (keys / "unseal.pub").unlink()
    with pytest.raises(UsageError, match="keys unseal-init"):
        AuditLog.open(tmp_path / "audit")
    with pytest.raises(LogNotFound, match="no keys folder"):
        make_unseal_key(tmp_path / "none")
