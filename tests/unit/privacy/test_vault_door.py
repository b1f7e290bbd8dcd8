"""The door seals what policy names, while it commits, and nothing else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from klingai_audit.errors import AuditUnavailable, EventTooLarge
from klingai_audit.event.record import Draft, Event, decode_event
from klingai_audit.privacy import secrets
from klingai_audit.privacy.commitment import ToCommit, is_commitment
from klingai_audit.privacy.door import Door
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import SqliteSubjects
from klingai_audit.privacy.unseal_key import UnsealKey
from klingai_audit.privacy.vault import Vault
from klingai_audit.trust.openings import commitments_in
from tests.support.faulty import FaultyOps

LOOKUP = bytes(range(32))
KEY = UnsealKey(bytes(range(1, 33)))
USER = "user@example.com"
LAKE = "A serene mountain lake at sunrise"
SEAL = "[vault]\nseal = ['prompt', '*_prompt', 'provider_message', 'image']\n"


class Entry:
    """A door with a policy, its people and its vault."""

    def __init__(self, folder: Path, policy: str = SEAL, ops: FaultyOps | None = None) -> None:
        self.subjects = SqliteSubjects(folder / "subjects.sqlite", LOOKUP)
        self.vault = Vault(folder / "audit.vault", "log.example/door", KEY.public, ops=ops or FaultyOps())
        self.door = Door(Policy.parse(policy.encode()), self.subjects, LOOKUP, vault=self.vault)

    def admit(self, **members: Any) -> Event:
        members = {"event_type": "x_test", "actor_id": USER, **members}
        return decode_event(self.door.admit(Draft(**members)).body)

    def sealed(self, event: Event) -> dict[str, bytes]:
        """Open all that is sealed of an event, by pointer."""
        subject = self.subjects.get(event.actor_id or "") or self.subjects.resolve(USER)
        return {
            pointer: self.vault.open(subject, event.event_id, pointer, stored, KEY)
            for pointer, stored in commitments_in(event.details).items()
            if self.vault.has(subject.pseudonym, str(stored["commitment"]))
        }


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path)


def test_named_content_is_sealed_and_the_rest_only_committed_to(entry: Entry) -> None:
    """In any spelling, at any depth, also under a name that capture chose; text that is not content stays."""
    event = entry.admit(
        metadata={
            "prompt": LAKE,
            "negativePrompt": "blur",
            "lyrics": "la la la, nobody named this",
            "shots": [{"prompt": "one"}, {"prompt": {"text": "two"}}],
            "provider_message": ToCommit("no lakes today"),
            "header": {"name": "prompt", "value": "spelled out"},
            "image": ToCommit(b"\x89PNG\xff", "image/png"),
            "model": "kling-3.0-turbo",
        }
    )
    assert {
        "/metadata/prompt": LAKE.encode(),
        "/metadata/negativePrompt": b"blur",
        "/metadata/shots/0/prompt": b"one",
        "/metadata/shots/1/prompt": b'{"text":"two"}',
        "/metadata/provider_message": b"no lakes today",
        "/metadata/header/value": b"spelled out",
        "/metadata/image": b"\x89PNG\xff",
    } == entry.sealed(event)
    assert (8, "kling-3.0-turbo") == (len(commitments_in(event.details)), event.details["model"])


def test_by_default_there_is_no_vault(tmp_path: Path) -> None:
    """Not even a folder."""
    entry = Entry(tmp_path, "")
    event = entry.admit(ip_address="203.0.113.9", metadata={"prompt": LAKE})
    assert ({}, False, ["prompt"]) == (entry.sealed(event), entry.vault.path.exists(), list(event.details))


def test_the_limit_is_of_bytes_and_inclusive(tmp_path: Path) -> None:
    """Longer content stays a commitment only."""
    entry = Entry(tmp_path, "[vault]\nseal = ['prompt']\nmax_bytes = 6\n")
    sealed = [list(entry.sealed(entry.admit(metadata={"prompt": text})).values()) for text in ("äöü", "äöüx")]
    assert [["äöü".encode()], []] == sealed


def test_content_of_two_in_one_event_is_of_who_acts(entry: Entry) -> None:
    """On behalf of whom does not count: the commitment is under the actor's key."""
    event = entry.admit(on_behalf_of="client@example.com", metadata={"prompt": LAKE})
    actor, client = entry.subjects.resolve(USER), entry.subjects.resolve("client@example.com")
    assert [actor.pseudonym] == list(entry.vault.subjects())
    assert (0, 1) == (entry.vault.erase(client.pseudonym), entry.vault.erase(actor.pseudonym))
    assert {} == entry.sealed(event)


def test_acts_of_nobody_and_of_services_are_sealed_as_well(tmp_path: Path) -> None:
    """Under the reserved subject, or the one behind an opaque name."""
    entry = Entry(tmp_path, SEAL + "[privacy]\nactor_ids = 'opaque'\n")
    for actor in (None, "render-farm"):
        event = entry.admit(actor_id=actor, metadata={"prompt": LAKE})
        subject = entry.subjects.resolve(event.actor_id or "")
        stored = event.details["prompt"]
        assert LAKE.encode() == entry.vault.open(subject, event.event_id, "/metadata/prompt", stored, KEY)


def test_a_commitment_that_is_handed_in_is_kept_as_it_is(entry: Entry) -> None:
    """There is nothing to seal."""
    stored = {"commitment": base64.urlsafe_b64encode(bytes(32))[:43].decode(), "bytes": 5}
    event = entry.admit(metadata={"prompt": stored})
    assert (stored, {}) == (event.details["prompt"], entry.sealed(event))


def test_whole_addresses_are_sealed_where_policy_wants_it(tmp_path: Path) -> None:
    """Beside mask and reference stands a commitment, and the address in one spelling lies in the vault."""
    entry = Entry(tmp_path, "[vault]\naddresses = true\n")
    event = entry.admit(ip_address="[2001:DB8::1]:443", metadata={"prompt": LAKE, "full_address": "mine"})
    assert ("mine", True) == (event.details["full_address"], is_commitment(event.details["full_address~"]))
    assert {"/metadata/full_address~0": b"2001:db8::1"} == entry.sealed(event)
    for address in ("203.0.xxx.xxx", "nowhere", None):
        assert "full_address" not in entry.admit(ip_address=address, metadata={"n": 1}).details
    assert {"/metadata/full_address": b"203.0.113.9"} == entry.sealed(entry.admit(ip_address="203.0.113.9"))


def test_an_event_that_is_refused_leaves_nothing(entry: Entry) -> None:
    """Sealing comes last."""
    with pytest.raises(EventTooLarge):
        entry.admit(metadata={"prompt": LAKE, "note": "x" * 70_000})
    assert not entry.vault.path.exists()


def test_a_vault_that_cannot_be_written_refuses_the_event(tmp_path: Path) -> None:
    """What policy wants sealed is not recorded without it; other events are."""
    ops = FaultyOps()
    entry = Entry(tmp_path, ops=ops)
    ops.fails = lambda _call: True
    with pytest.raises(AuditUnavailable, match="vault"):
        entry.admit(metadata={"prompt": LAKE})
    assert {"n": 1} == entry.admit(metadata={"n": 1}).details


def test_content_with_a_credential_in_it_is_not_sealed(entry: Entry) -> None:
    """Credentials are kept nowhere: the commitment stands, nothing opens it."""
    secrets.learn("api-key-kling-Pangolin5508Pangolin5508")
    try:
        for text in ("use api-key-kling-Pangolin5508Pangolin5508", "Authorization: Bearer abcdefghijklmnopqrstuvwx"):
            event = entry.admit(metadata={"prompt": text, "negative_prompt": [text]})
            assert (2, {}) == (len(commitments_in(event.details)), entry.sealed(event))
    finally:
        secrets.forget_all()
