"""Erasure: the person is gone from every file, the log still verifies, and nothing brings them back."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from klingai_audit import AuditLog, acting
from klingai_audit.config import Places
from klingai_audit.errors import InvalidEvent, UnderHold, UsageError
from klingai_audit.event.record import Draft, decode_event
from klingai_audit.privacy.commitment import check_opening, opening
from klingai_audit.privacy.erasures import Erased
from klingai_audit.tlog.keys import VerifierKey
from klingai_audit.trust.proofs import check_entry_proof, prove_entry
from klingai_audit.upkeep.backup import succeed
from klingai_audit.upkeep.erasure import erase_subject
from klingai_audit.upkeep.holds import active_holds, release_hold, set_hold
from klingai_audit.upkeep.registry import RegistryFile
from klingai_audit.upkeep.unseal import make_unseal_key
from klingai_audit.views.erasures import ErasureMemory
from klingai_audit.views.query import Filter

USER, OTHER, OFFICER = "user@example.com", "usher@example.com", "officer@example.com"
BASIS = "GDPR Art. 17(1)(b), case 2026-114"
PROMPT = "A serene mountain lake at sunrise"
ADDRESS = "192.168.1.100"


@pytest.fixture(autouse=True)
def officer() -> Iterator[None]:
    """Who erases."""
    with acting(OFFICER, actor_type="admin"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A log in which two people did the same things."""
    with AuditLog.open(tmp_path / "audit", text_log=tmp_path / "audit.state" / "audit.log") as audit:
        _ = audit.recorder  # the table of tasks
        for who in (USER, OTHER):
            with acting(who, ip=ADDRESS):
                audit.log("prompt_submitted", resource_type="video", action="text_to_video", prompt=PROMPT)
                audit.log(
                    "video_generation_started",
                    resource_type="video",
                    resource_id=f"task-{who[:4]}",
                    correlation_id=f"of-{who[:4]}",
                )
        audit.log("user_added", resource_type="user", resource_id=USER, action="add", role="user")
        audit.log("video_downloaded", resource_type="video", on_behalf_of=USER)
        audit.flush("published")
    return tmp_path


def test_erasing_a_person(folder: Path) -> None:
    """The certificate tells what was there, the pseudonym leads nowhere, and log and older proofs verify."""
    with AuditLog.open(folder / "audit") as audit:
        gone, stays = audit.subjects.find(USER), audit.subjects.find(OTHER)
        assert gone is not None
        assert stays is not None
        first = next(audit.query(actor=USER))
        proof = prove_entry(audit.reader, first.seq).format()
        before = audit.reader.checkpoint()
        made = erase_subject(audit, USER, basis=BASIS)
        assert (gone.pseudonym, BASIS, 4, True, False) == (
            made.pseudonym, made.basis, made.entries, made.verified, made.again,
        )  # fmt: skip
        assert {
            "prompt_submitted": 1,
            "user_added": 1,
            "video_downloaded": 1,
            "video_generation_started": 1,
        } == made.types
        assert (first.seq, True) == (made.first, first.seq < (made.last or 0) < before.size)
        assert {"size": before.size, "root": before.root.hex()} == made.checkpoint
        assert [None, None, None] == [
            audit.subjects.get(gone.pseudonym), audit.subjects.find(USER), audit.subjects.reveal(gone.pseudonym),
        ]  # fmt: skip
        assert OTHER == audit.subjects.reveal(stays.pseudonym)
        proven = check_entry_proof(proof, [VerifierKey.parse(audit.vkey)], None)
        assert first.raw == proven.entry


def test_the_entry_is_the_certificate_and_names_nobody(folder: Path) -> None:
    """What the entry holds is what the certificate says; the basis is in it, the person and their mask are not."""
    with AuditLog.open(folder / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
        entry = audit.reader.entry(made.seq)
    event = decode_event(entry)
    assert ("subject_erased", "user", made.pseudonym, "erase") == (
        event.event_type, event.get("resource_type"), event.get("resource_id"), event.get("action"),
    )  # fmt: skip
    told = {**made.to_json()}
    assert event.details == {name: told[name] for name in event.details}
    assert b"user@" not in entry
    assert b"us***" not in entry


def erased_bytes(folder: Path, pseudonym: str) -> list[bytes]:
    """Return every byte string that must be in no file after the erasure."""
    database = sqlite3.connect(folder / "audit.keys" / "subjects.sqlite")
    row = database.execute("SELECT key, sealed, lookup FROM subjects WHERE pseudonym = ?", (pseudonym,)).fetchone()
    database.close()
    forms = [USER.encode(), USER.encode("utf-16-le"), ADDRESS.encode(), PROMPT.encode()]
    texts = [part for value in row for part in (value, value.hex().encode())]
    return [*texts, *forms]


def holders(folder: Path, needles: Iterable[bytes]) -> list[str]:
    """Return which files hold one of the needles."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 15
    wanted = list(needles)
    return [path.name for path in files if any(needle in path.read_bytes() for needle in wanted)]


def test_no_file_holds_the_person(folder: Path) -> None:
    """Neither raw key nor id nor sealed id nor look-up value is in any file of log, keys, state and text log."""
    with AuditLog.open(folder / "audit", text_log=folder / "audit.state" / "audit.log") as audit:
        known = audit.subjects.find(USER)
        assert known is not None
        needles = erased_bytes(folder, known.pseudonym)
        assert ["subjects.sqlite"] == holders(folder, needles)
        _ = audit.recorder
        list(audit.query(actor=USER))
        assert audit.index is not None
        erase_subject(audit, USER, basis=BASIS)
        assert [] == holders(folder, needles)
    assert [] == holders(folder, needles)
    assert {"tasks.sqlite", "options.json", "audit.log"} <= {path.name for path in (folder / "audit.state").iterdir()}


class Attacker:
    """Somebody with every byte that is on the disk after the erasure, and good dictionaries."""

    emails = ("somebody@example.com", USER, OTHER, "boss@example.com")
    prompts = ("A cat", PROMPT, "A serene mountain lake at sunset")
    addresses = tuple(f"192.168.1.{number}" for number in range(256))

    def __init__(self, folder: Path) -> None:
        self.files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.image = b"\0".join(self.files.values())
        small = [data for path, data in self.files.items() if ".keys" in str(path) and len(data) <= 64]
        keys = {data[:32] for data in small} | {data[-32:] for data in small}
        keys |= {bytes.fromhex(data.decode().strip()) for data in small if _is_hex(data)}
        database = sqlite3.connect(folder / "audit.keys" / "subjects.sqlite")
        keys |= {row[0] for row in database.execute("SELECT key FROM subjects")}
        self.lookups = {bytes(row[0]) for row in database.execute("SELECT lookup FROM subjects")}
        database.close()
        raw = self.files[folder / "audit.keys" / "subjects.sqlite"]
        keys |= {raw[at : at + 32] for at in range(len(raw) - 32)}
        self.keys = keys

    def people(self, lookup_key: bytes) -> list[str]:
        """Return the e-mail addresses whose keyed look-up value is anywhere on the disk."""
        return [one for one in self.emails if hmac.digest(lookup_key, one.encode(), "sha256") in self.image]

    def prompt_of(self, event_id: str, stored: dict[str, object]) -> str | None:
        """Return the prompt behind a commitment, if any key and any guess open it."""
        for key in self.keys:
            salt = opening(key, event_id, "/metadata/prompt")
            for guess in self.prompts:
                if check_opening(stored, salt, guess.encode()):
                    return guess
        return None

    def address_of(self, reference: str, keys: Iterable[bytes]) -> str | None:
        """Return the address behind a keyed reference, if any key and any guess give it."""
        for key, guess in itertools.product(keys, self.addresses):
            if hmac.digest(key, guess.encode(), "sha256")[:16].hex() == reference:
                return guess
        return None


def _is_hex(data: bytes) -> bool:
    try:
        return len(bytes.fromhex(data.decode().strip())) == 32
    except (UnicodeDecodeError, ValueError):
        return False


@pytest.mark.slow
def test_what_is_left_on_the_disk_opens_nothing(folder: Path) -> None:
    """With all that was not destroyed, no dictionary finds the erased person; it finds the other one, so it would."""
    with AuditLog.open(folder / "audit") as audit:
        theirs = {who: next(audit.query(actor=who, event_type="prompt_submitted")) for who in (USER, OTHER)}
        lookup_key = audit._keys.lookup_key
        erase_subject(audit, USER, basis=BASIS)
    attacker = Attacker(folder)
    assert [OTHER] == attacker.people(lookup_key)
    assert PROMPT == attacker.prompt_of(theirs[OTHER].event_id, theirs[OTHER].metadata["prompt"])
    assert None is attacker.prompt_of(theirs[USER].event_id, theirs[USER].metadata["prompt"])
    database = sqlite3.connect(folder / "audit.keys" / "subjects.sqlite")
    rows = {row[0] for row in database.execute("SELECT key FROM subjects")}
    database.close()
    assert ADDRESS == attacker.address_of(theirs[OTHER].ip_ref or "", rows)
    assert None is attacker.address_of(theirs[USER].ip_ref or "", attacker.keys)
    assert len(attacker.keys) > 500


def test_twice_and_unknown(folder: Path) -> None:
    """By pseudonym the second time says that it is done; the id leads nowhere; nobody and reserved are refused."""
    with AuditLog.open(folder / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
        size = audit.reader.size
        again = erase_subject(audit, made.pseudonym, basis="something else")
        assert (made.seq, BASIS, True, True) == (again.seq, again.basis, again.again, again.verified)
        for nobody in (USER, "nobody@example.com", "p_" + "A" * 22):
            with pytest.raises(UsageError, match="Nobody by this id"):
                erase_subject(audit, nobody, basis=BASIS)
        for reserved in ("unknown", "klingai-audit"):
            with pytest.raises(UsageError, match="is no person"):
                erase_subject(audit, reserved, basis=BASIS)
        assert size == audit.reader.size


@pytest.mark.parametrize("basis", ["", "  ", "x" * 201, f"asked by {USER}", "asked by boss@example.org"])
def test_a_basis_says_why_and_not_who(folder: Path, basis: str) -> None:
    """A basis that is empty, too long or names somebody is refused, and nothing is changed."""
    with AuditLog.open(folder / "audit") as audit:
        size = audit.reader.size
        with pytest.raises(UsageError, match="basis"):
            erase_subject(audit, USER, basis=basis)
        assert size == audit.reader.size
        assert audit.subjects.find(USER) is not None


def test_holds_stop_it(folder: Path) -> None:
    """A hold on the person, on one of their entries or by query stands against it by name, until it is released."""
    with AuditLog.open(folder / "audit") as audit:
        seq = next(audit.query(actor=USER)).seq
        for number, covers in enumerate((
            {"actor": USER}, {"range": (seq, seq)}, {"query": Filter(event_type=("prompt_submitted",))},
            {"task": "task-user"},
        )):  # fmt: skip
            name = f"case-{number}"
            set_hold(audit, name, **covers)  # type: ignore[arg-type]
            size = audit.reader.size
            with pytest.raises(UnderHold, match=f"legal hold {name} "):
                erase_subject(audit, USER, basis=BASIS)
            assert size == audit.reader.size
            release_hold(audit, name)
        set_hold(audit, "other", actor=OTHER)
        assert erase_subject(audit, USER, basis=BASIS).verified
        with pytest.raises(UnderHold):
            erase_subject(audit, OTHER, basis=BASIS)


def test_a_hold_and_an_erasure_exclude_each_other(folder: Path) -> None:
    """While somebody is being erased no hold comes into force, so none can be overlooked."""
    with AuditLog.open(folder / "audit") as audit:

        def act() -> None:
            with acting(OFFICER):
                set_hold(audit, "case-1", actor=OTHER)

        setting = threading.Thread(target=act)
        with RegistryFile(folder / "audit.keys").locked():
            setting.start()
            setting.join(0.1)
            assert setting.is_alive()
            assert [] == active_holds(audit)
        setting.join(30)
        assert ["case-1"] == [hold.name for hold in active_holds(audit)]


def test_a_restored_backup_brings_nobody_back(folder: Path) -> None:
    """Keys and state put back as they were before: the next opening for writing destroys the row again."""
    shutil.copytree(folder / "audit.keys", folder / "keys.backup")
    with AuditLog.open(folder / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
    for what in ("subjects.sqlite", "subjects.sqlite.erasures"):
        shutil.copy(folder / "keys.backup" / what, folder / "audit.keys" / what)
    with AuditLog.open(folder / "audit") as audit:
        assert (None, None) == (audit.subjects.reveal(made.pseudonym), audit.subjects.find(USER))
        assert (made.seq, BASIS) == (audit.subjects.erased(made.pseudonym) or (0, 0, 0, 0))[1::2]


def test_a_successor_has_nobody_who_was_erased(folder: Path) -> None:
    """A log that follows a restored one takes its people over from an older table, but not the erased ones."""
    shutil.copytree(folder / "audit.keys", folder / "keys.backup")
    with AuditLog.open(folder / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
    for what in ("subjects.sqlite", "subjects.sqlite.erasures"):
        shutil.copy(folder / "keys.backup" / what, folder / "audit.keys" / what)
    succeed(Places.resolve(folder / "audit"), Places.resolve(folder / "new"))
    with AuditLog.open(folder / "new") as audit:
        assert (None, None) == (audit.subjects.reveal(made.pseudonym), audit.subjects.find(USER))
        assert audit.subjects.find(OTHER) is not None


def test_who_erases_can_be_erased(folder: Path) -> None:
    """The officer's own entries do not stand against it, and the entry that says so is under their pseudonym."""
    with AuditLog.open(folder / "audit") as audit:
        erase_subject(audit, USER, basis=BASIS)
        made = erase_subject(audit, OFFICER, basis=BASIS)
        assert made.verified
        entry = next(audit.query(event_type="subject_erased", resource=made.pseudonym))
        assert f"{made.pseudonym} (erased on {made.at[:10]} under {BASIS})" == entry.actor()


def test_sealed_content_goes_too(tmp_path: Path) -> None:
    """What the vault holds of the person is counted, removed, and removed again where a backup brings it back."""
    AuditLog.open(tmp_path / "audit").close()
    make_unseal_key(tmp_path / "audit.keys")
    (tmp_path / "audit.keys" / "policy.toml").write_text('[vault]\nseal = ["prompt"]\n')
    with AuditLog.open(tmp_path / "audit") as audit:
        for who in (USER, OTHER):
            with acting(who):
                audit.log("prompt_submitted", action="text_to_video", prompt=PROMPT)
                audit.log("prompt_submitted", action="text_to_video", prompt="another")
        assert 4 == audit.vault.usage().contents
    shutil.copytree(tmp_path / "audit.vault", tmp_path / "backup")
    with AuditLog.open(tmp_path / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
        assert (2, 2, 0) == (made.vault_files, audit.vault.usage().contents, audit.vault.count(made.pseudonym))
    shutil.copytree(tmp_path / "backup", tmp_path / "audit.vault", dirs_exist_ok=True)
    with AuditLog.open(tmp_path / "audit") as audit:
        assert (2, 0) == (audit.vault.usage().contents, audit.vault.count(made.pseudonym))


def test_views_say_erased(folder: Path) -> None:
    """Where a person was shown stands the pseudonym, and when and why they were erased; programs get it as JSON."""
    with AuditLog.open(folder / "audit") as audit:
        made = erase_subject(audit, USER, basis=BASIS)
        words = f"{made.pseudonym} (erased on {made.at[:10]} under {BASIS})"
        entry = next(audit.query(actor=made.pseudonym))
        assert [words, words, made.pseudonym] == [entry.actor(), entry.actor("id"), entry.actor("pseudonym")]
        ending = f'"_actor":null,"_erased":{{"seq":{made.seq},"at":"{made.at}","basis":"{BASIS}"}}}}'
        assert entry.resolved_json().decode().endswith(ending)
        assert words == audit.activity(made.pseudonym).actor
        assert words == next(audit.query(event_type="user_added")).resource()
        assert words == next(audit.query(event_type="subject_erased")).resource()


def test_who_comes_back_is_somebody_new(folder: Path) -> None:
    """An act after the erasure gets a new pseudonym, in this process and in one that had the log open meanwhile."""
    with AuditLog.open(folder / "audit") as audit, AuditLog.open(folder / "audit") as other, acting(USER, ip=ADDRESS):
        old = other.log("x_act").wait()
        with acting(OFFICER):
            made = erase_subject(audit, USER, basis=BASIS)
        assert made.pseudonym == decode_event(audit.reader.entry(old.seq or 0)).actor_id
        new = {
            decode_event(one.reader.entry(one.log("x_act").wait("published").seq or 0)).actor_id
            for one in (audit, other)
        }
        assert 1 == len(new)
        assert made.pseudonym not in new


def test_an_erasure_is_remembered_without_reading_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state folder remembers up to where entries were read; what is of another log, or garbled, is not believed."""
    monkeypatch.setattr("klingai_audit.views.erasures._WORTH_A_FILE", 1)
    with AuditLog.open(tmp_path / "audit") as audit:
        with acting(USER):
            audit.log("x_act")
        made = erase_subject(audit, USER, basis=BASIS)
        memory, path = ErasureMemory(audit.reader, tmp_path / "audit.state"), tmp_path / "audit.state" / "erased.json"
        expected = [Erased(made.pseudonym, made.seq, made.at, BASIS)]
        assert expected == memory.look()
        kept = path.read_bytes()
        assert USER.encode() not in kept
        read: list[int] = []
        entries = audit.reader.entries

        def noted(begin: int = 0, end: int | None = None) -> Iterator[bytes]:
            read.append(begin)
            return entries(begin, end)

        monkeypatch.setattr(audit.reader, "entries", noted)
        assert expected == memory.look()
        assert [] == [begin for begin in read if begin == 0]
        for garbled in (b"", b"{}", kept.replace(b'"last":"', b'"last":"0')):
            path.write_bytes(garbled)
            read.clear()
            assert expected == memory.look()
            assert [0] == read


def test_an_entry_that_is_no_certificate_erases_nobody(folder: Path) -> None:
    """A program that logs the type by hand, or a failed one, destroys nothing at the next opening."""
    with AuditLog.open(folder / "audit") as audit:
        known = audit.subjects.find(USER)
        assert known is not None
        made = {"event_type": "subject_erased", "resource_type": "user", "resource_id": USER}
        with pytest.raises(InvalidEvent):
            audit.log(**made)
        audit.record(Draft(**made, action="erase"))
        details = {"basis": BASIS, "checkpoint": {"size": 1, "root": hashlib.sha256(b"").hexdigest()}}
        audit.record(Draft(**made, outcome="failure", metadata=details))
    with AuditLog.open(folder / "audit") as audit:
        assert known == audit.subjects.find(USER)
