"""First entry, epochs and handovers: what a writer with all keys still cannot get past verification."""

from __future__ import annotations

import base64
import json

import pytest

from tests.support.logsmith import POLICY, Key, Smith, sign_note
from tests.unit.trust.attacks import broken, check

FIRST = "audit-2026-11-20.jsonl"


def judged(smith: Smith, folder, **options: object) -> list[tuple[str, int | None]]:
    """Kinds and entries of the broken findings on a log that its own writer made so."""
    verdict = check(folder / "audit", smith.files(), key=smith.log_key.vkey, now=smith.now, **options)
    return [(kind, seq) for kind, seq, *_ in broken(verdict)]


def begin(smith: Smith, **changes: object) -> Smith:
    """A log whose first entry states what `changes` say; None takes a member away."""
    first = {"format": 1, "origin": smith.origin, "log_key": smith.log_key.vkey, "epoch": 0}
    first |= {"epoch_key": smith.epoch_key(0).vkey, "policy": POLICY} | changes
    body = smith.event("log_created", {name: value for name, value in first.items() if value is not None})
    smith.batch(body)
    return smith.closed()


def rotation(smith: Smith, note: bytes | None = None, **changes: object) -> Smith:
    """Rotate with another note or other metadata than the format asks for."""
    successor = smith.epoch_key(smith.epoch + 1)
    items = ["klingai-audit/handover/v1", smith.origin, smith.epoch + 1, smith.tree.size]
    items += [base64.b64encode(smith.tree.root()).decode(), successor.vkey]
    made = sign_note("".join(f"{item}\n" for item in items), smith.epoch_key())
    metadata = {"epoch": smith.epoch + 1, "epoch_key": successor.vkey, "handover": (note or made).decode()}
    smith.batch(smith.event("signing_key_rotated", metadata | changes))
    smith.epoch += 1
    return smith


def note_of(smith: Smith, key: Key | None = None, **changes: object) -> bytes:
    """A handover note with one item changed, signed by the outgoing epoch or `key`."""
    items = {"line": "klingai-audit/handover/v1", "origin": smith.origin, "epoch": smith.epoch + 1}
    items |= {"size": smith.tree.size, "root": base64.b64encode(smith.tree.root()).decode()}
    items |= {"successor": smith.epoch_key(smith.epoch + 1).vkey} | changes
    return sign_note("".join(f"{item}\n" for item in items.values()), key or smith.epoch_key())


def test_rotations_in_a_row_verify(tmp_path):
    """Five epochs, each proven by the one before."""
    smith = Smith().create()
    for _ in range(4):
        smith.work(5).rotate()
    verdict = check(tmp_path / "audit", smith.work(3).closed().files(), key=smith.log_key.vkey, now=smith.now)
    assert (broken(verdict), "4 handover(s)" in verdict.threat("key_theft").by) == ([], True)


@pytest.mark.parametrize(
    "changes, kind",
    [
        ({"format": 2}, "unknown_version"),
        ({"policy": None}, "first_entry"),
        ({"epoch": 1}, "first_entry"),
        ({"more": 1}, "first_entry"),
        ({"origin": "log.example.com/other"}, "first_entry"),
        ({"log_key": "rubbish"}, "first_entry"),
        ({"epoch_key": 7}, "first_entry"),
    ],
)
def test_first_entry_must_describe_the_log(tmp_path, changes, kind):
    """Other members, another format, keys that are none: each is named."""
    assert (kind, 0) in judged(begin(Smith(), **changes), tmp_path)


def test_other_log_key_in_the_first_entry_is_foreign(tmp_path):
    """The first entry names another key than the one that signs and is trusted."""
    other = Key("log.example.com/smith", b"\x09" * 32)
    assert judged(begin(Smith(), log_key=other.vkey), tmp_path) == [("foreign_key", 0)]


def test_log_is_created_once(tmp_path):
    """A second log_created entry is broken, wherever it stands."""
    smith = Smith().create()
    smith.batch(smith.event("log_created", {"format": 1}))
    assert judged(smith.closed(), tmp_path) == [("first_entry", 2)]


def test_first_entry_of_another_type_is_broken(tmp_path):
    """A log that does not begin by creating itself."""
    smith = Smith()
    smith.batch(smith.event("log_opened", {"policy": POLICY, "writer": "w1"}))
    assert ("first_entry", 0) in judged(smith.closed(), tmp_path)


def stranger() -> Key:
    return Key("log.example.com/smith/epoch-0", b"\x08" * 32)


BAD_ROTATIONS = {
    "note by a stranger": lambda smith: rotation(smith, note_of(smith, stranger())),
    "note by the successor": lambda smith: rotation(smith, note_of(smith, smith.epoch_key(1))),
    "note with two signatures": lambda smith: rotation(
        smith, note_of(smith) + note_of(smith, smith.log_key).split(b"\n\n")[1]
    ),
    "note over another root": lambda smith: rotation(smith, note_of(smith, root=base64.b64encode(bytes(32)).decode())),
    "note over another size": lambda smith: rotation(smith, note_of(smith, size=1)),
    "note for another log": lambda smith: rotation(smith, note_of(smith, origin="log.example.com/other")),
    "note for another epoch": lambda smith: rotation(smith, note_of(smith, epoch=7)),
    "note for another key": lambda smith: rotation(smith, note_of(smith, successor=stranger().vkey)),
    "note with a line more": lambda smith: rotation(smith, note_of(smith, more="x")),
    "note that is none": lambda smith: rotation(smith, b"rubbish"),
    "epoch skipped": lambda smith: rotation(smith, epoch=2),
    "key of another name": lambda smith: rotation(smith, epoch_key=stranger().vkey),
    "member more": lambda smith: rotation(smith, more=1),
}


@pytest.mark.parametrize("name", BAD_ROTATIONS)
def test_handover_must_be_what_the_outgoing_epoch_signed(tmp_path, name):
    """Every departure of a rotation from docs/format.md, section 7."""
    smith = BAD_ROTATIONS[name](Smith().create().work(5)).work(3).closed()
    assert ("handover_invalid", 7) in judged(smith, tmp_path)


def test_checkpoint_by_an_epoch_that_ended_is_broken(tmp_path):
    """Epoch 0 signs after its handover."""
    smith = Smith().create().rotate().work(4)
    files = smith.files(checkpoint=smith.checkpoint(epoch=0))
    verdict = check(tmp_path / "audit", files, key=smith.log_key.vkey, now=smith.now)
    assert broken(verdict) == [("epoch_signature", None, None, "checkpoint", 6)]


def test_handover_signed_by_the_successor_is_misuse(tmp_path):
    """The handover checkpoint is the outgoing epoch's last, not the successor's first."""
    smith = Smith().create().rotate().work(4).closed()
    smith.kept[3] = smith.checkpoint(3, epoch=1)
    assert judged(smith, tmp_path) == [("epoch_misused", 0)]


def test_changed_rotation_is_one_finding(tmp_path):
    """Where the rotation's own entry is changed, no epoch is accused on its account."""
    smith = Smith().create().work(5).rotate().work(4).closed()
    files = smith.files()
    files[FIRST] = files[FIRST].replace(b'"epoch":1', b'"epoch":9')
    verdict = check(tmp_path / "audit", files, key=smith.log_key.vkey, now=smith.now)
    assert broken(verdict) == [("entry_changed", 7, 8, FIRST, 8)]


def test_vector_handover_reads_back():
    """The note that logsmith writes is the one that the page describes."""
    smith = Smith().create().rotate()
    note = json.loads(smith.entries[2])["metadata"]["handover"]
    assert note.split("\n")[:4] == ["klingai-audit/handover/v1", smith.origin, "1", "2"]
