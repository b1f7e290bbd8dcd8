"""Log, keys and state in wrong combinations: each is refused or taken up in the documented way, none begins anew."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from klingai_audit.config import Places, must_create, open_store
from klingai_audit.durable import OPS
from klingai_audit.errors import (
    AuditUnavailable,
    InconsistentCheckpoints,
    LogDamaged,
    LogNotFound,
    Malformed,
    UnsafePermissions,
)
from klingai_audit.ledger.keys import KeyFolder
from klingai_audit.ledger.state import OriginMemory, StateFolder
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import Checkpoint
from klingai_audit.tlog.note import sign_note
from klingai_audit.trust.verdict import FINDING_KINDS
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import Judged, judge

PARTS = ("audit", "audit.keys", "audit.state")


@pytest.fixture(autouse=True)
def _own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a machine of its own, which remembers no log."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def opened(place: Path, **options: object) -> AuditLog:
    return AuditLog.open(place / "audit", ops=QuickOps(), **options)  # type: ignore[arg-type]


def use(place: Path, count: int = 3) -> str:
    """Open the log, write some entries, close it; returns its public key."""
    with opened(place) as audit:
        for _ in range(count):
            audit.log("x_test", "user@example.com").wait("published")
        return audit.vkey


def look(place: Path) -> Judged:
    return judge(place / "audit", (place / "audit.keys" / "log.pub").read_text().strip())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_a_new_log_consists_of(place: Path) -> None:
    """Opening creates log, keys and state, private files private; a second opening goes on."""
    vkey = use(place)
    assert vkey == use(place)
    assert look(place).types().count("log_created") == 1
    for path in (place / "audit.keys").rglob("*"):
        private = path.suffix in (".key", ".sqlite")
        assert 0o600 == path.stat().st_mode & 0o777 if private else path.is_dir() or path.stat().st_mode & 0o200
    assert not (place / "audit.keys" / "init.pending").exists()


def test_create_false_creates_nothing(place: Path) -> None:
    """A service that may only use an existing log gets an error, and no folder appears."""
    with pytest.raises(LogNotFound) as caught:
        opened(place, create=False)
    assert "klingai-audit init" in caught.value.do
    assert [] == list(place.iterdir())
    use(place)
    opened(place, create=False).close()


@pytest.mark.parametrize("gone", ["audit", "audit.keys", "both", "log-and-keys"])
def test_a_part_that_is_gone_is_no_fresh_start(place: Path, gone: str) -> None:
    """Keys without a log, a log without keys, a memory without either: refused, and nothing is made or changed."""
    use(place)
    for name in {"both": ("audit", "audit.state"), "log-and-keys": ("audit", "audit.keys")}.get(gone, (gone,)):
        shutil.rmtree(place / name)
    before = content(place)
    with pytest.raises(LogNotFound if gone == "audit.keys" else LogDamaged) as caught:
        opened(place)
    assert caught.value.do != ""
    assert before == content(place)


def test_an_emptied_log_folder_is_no_fresh_start(place: Path) -> None:
    """A log folder whose files are gone is a log that is gone."""
    use(place)
    for path in (place / "audit").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(LogDamaged) as caught:
        opened(place)
    assert "log_missing" == caught.value.kind_of_damage


def test_a_lost_state_folder_is_noted(place: Path) -> None:
    """Without the writers' memory the log goes on and says so, once."""
    use(place)
    shutil.rmtree(place / "audit.state")
    use(place)
    recovered = [entry["metadata"] for entry in look(place).entries if entry["event_type"] == "log_recovered"]
    assert [{"state_missing": True}] == recovered
    use(place)
    assert look(place).types().count("log_recovered") == 1


def test_a_state_folder_lost_in_use_is_made_anew(place: Path) -> None:
    """While a writer runs its memory may vanish: it is made again, and the log says so."""
    with opened(place) as audit:
        audit.log("x_test", "user@example.com").wait("published")
        shutil.rmtree(place / "audit.state")
        audit.log("x_test", "user@example.com").wait("published")
        audit.log("x_test", "user@example.com").wait("published")
        assert (place / "audit.state" / "heads" / "head").exists()
    metadata = [entry["metadata"] for entry in look(place).entries if entry["event_type"] == "log_recovered"]
    assert [{"state_missing": True}] == metadata


@pytest.mark.parametrize("name", ["log.key", "epoch-0.key", "tail-0.key", "lookup.key"])
def test_an_open_private_file_is_refused(place: Path, name: str) -> None:
    """A private key that others may read is refused with the command that repairs it, and the command does."""
    use(place)
    path = place / "audit.keys" / name
    path.chmod(0o644)
    with pytest.raises(UnsafePermissions) as caught:
        opened(place)
    command = caught.value.do.removeprefix("Run: ")
    assert f"chmod 600 {path}" == command
    assert os.system(command) == 0
    use(place)
    look(place)


@pytest.mark.parametrize("name", ["log.key", "epoch-0.key", "tail-0.key", "lookup.key"])
def test_a_missing_or_broken_key_is_refused(place: Path, name: str) -> None:
    """Without one of its keys, or with garbage for it, a log is not written; nothing is made in its place."""
    use(place)
    path = place / "audit.keys" / name
    good = path.read_bytes()
    path.unlink()
    before = content(place / "audit.keys")
    with pytest.raises(LogNotFound):
        opened(place)
    assert before == content(place / "audit.keys")
    broken_signer = [good[:-9] + b"AAAAAAAA\n"] if name in ("log.key", "epoch-0.key") else []
    for broken in (b"", b"garbage\n", good + b"\n", good[:-2] + b"\n", *broken_signer):
        path.write_bytes(broken)
        path.chmod(0o600)
        with pytest.raises((Malformed, LogNotFound, LogDamaged)):
            opened(place)
        assert broken == path.read_bytes()
    path.write_bytes(good)
    use(place)
    look(place)


def test_keys_of_another_log_are_refused(place: Path, tmp_path: Path) -> None:
    """A log and a keys folder that do not belong together: nothing is written to either."""
    use(place)
    other = tmp_path / "other"
    other.mkdir()
    use(other)
    shutil.rmtree(place / "audit.keys")
    shutil.copytree(other / "audit.keys", place / "audit.keys")
    before = content(place / "audit")
    with pytest.raises(LogDamaged):
        opened(place)
    assert before == content(place / "audit")


def test_a_key_replaced_on_this_machine_is_refused(place: Path) -> None:
    """This machine remembers the key of an origin: a log rewritten under another one is not taken up."""
    use(place)
    folder = KeyFolder(place / "audit.keys")
    origin, vkey = folder.origin, folder.log_signer.verifier.format()
    assert vkey == OriginMemory().recall(origin)
    for part in PARTS:
        shutil.rmtree(place / part)
    with pytest.raises(LogDamaged) as caught:
        opened(place, origin=origin)
    assert "foreign_key" == caught.value.kind_of_damage


def half_finished(place: Path) -> Iterator[None]:
    """Begin to create a log again and again, and die one operation later each time."""
    for lives in range(0, 1_000, 2):

        class Dying(QuickOps):
            left = lives

        def wrapped(name: str) -> object:
            real = getattr(QuickOps, name)

            def act(self: Dying, *arguments: object, **options: object) -> object:
                if Dying.left == 0:
                    os._exit(9)
                Dying.left -= 1
                return real(self, *arguments, **options)

            return act

        for name in ("open", "write", "write_at", "sync", "truncate", "rename", "unlink", "mkdir", "rmdir"):
            setattr(Dying, name, wrapped(name))

        def act(tell: Tell, ops: QuickOps = Dying()) -> None:  # noqa: B008
            AuditLog.open(place / "audit", ops=ops).close()

        for part in PARTS:
            shutil.rmtree(place / part, ignore_errors=True)
        if Child(act).wait() == 0:
            return
        yield None


@pytest.mark.slow
def test_a_half_finished_creation_is_completed(place: Path) -> None:
    """A creation that dies at any operation is completed by the next opening, with the keys that are there."""
    count = 0
    for _ in half_finished(place):
        count += 1
        key = place / "audit.keys" / "log.key"
        before = key.read_bytes() if key.exists() else None
        if count % 3 == 0 and before is not None:
            use(place, 1)
            assert before == key.read_bytes()
            judged = look(place)
            assert ("log_created", 1) == (judged.types()[0], judged.types().count("log_created"))
    assert count > 30


def test_a_creation_that_ends_between_two_looks(place: Path) -> None:
    """Whoever looks while another process creates the log neither refuses nor creates: it joins in."""
    places = Places.resolve(place / "audit")
    keys, state = KeyFolder(places.keys), StateFolder(places.state)
    store = open_store(places, OPS)
    looks = 0

    def exists() -> bool:
        nonlocal looks
        found = store.exists()
        looks += 1
        if looks == 1:
            use(place)
        return found

    assert must_create(places, keys, state, exists=exists, create=True) is False
    assert looks == 2


def test_many_processes_create_one_log(place: Path) -> None:
    """Six processes open the same new log at once: it is created once, and all of them write to it."""
    moment = time.time() + 0.3

    def act(tell: Tell) -> None:
        time.sleep(max(0.0, moment - time.time()))
        with opened(place) as audit:
            tell(f"{audit.vkey}\t{audit.log('x_test', 'user@example.com').wait().seq}")

    children = [Child(act) for _ in range(6)]
    assert [0] * 6 == [child.wait() for child in children]
    answers = [child.lines[0].split("\t") for child in children]
    assert len({vkey for vkey, _ in answers}) == 1
    assert len({seq for _, seq in answers}) == 6
    assert look(place).types().count("log_created") == 1


# --- older copies -------------------------------------------------------------------------------------


def test_a_log_rolled_back_is_refused(place: Path, tmp_path: Path) -> None:
    """An older copy of the log beside the newer memory of its writers is damage, and stays as it is."""
    use(place)
    shutil.copytree(place / "audit", tmp_path / "older")
    use(place)
    shutil.rmtree(place / "audit")
    shutil.copytree(tmp_path / "older", place / "audit")
    before = content(place / "audit")
    with pytest.raises(LogDamaged) as caught:
        opened(place)
    assert "rollback" == caught.value.kind_of_damage
    assert before == content(place / "audit")


def test_an_older_copy_that_grew_again_is_refused(place: Path, tmp_path: Path) -> None:
    """An older copy that was continued with the keys, and is longer than what is remembered, is a fork."""
    use(place)
    for part in PARTS:
        shutil.copytree(place / part, tmp_path / "copy" / part)
    use(place, 2)
    use(tmp_path / "copy", 12)
    shutil.rmtree(place / "audit")
    shutil.copytree(tmp_path / "copy" / "audit", place / "audit")
    with pytest.raises(InconsistentCheckpoints) as caught:
        opened(place)
    assert caught.value.older != caught.value.newer


def test_two_heads_of_one_size_are_a_fork(place: Path) -> None:
    """Another root for the size that is remembered is not explained away."""
    use(place)
    keys = KeyFolder(place / "audit.keys")
    head = place / "audit.state" / "heads" / "head"
    size = int(head.read_bytes().split(b"\n")[1])
    head.write_bytes(sign_note(Checkpoint(keys.origin, size, bytes(32)).text(), keys.log_signer, keys.current.signer))
    with pytest.raises(InconsistentCheckpoints):
        opened(place)


@pytest.mark.parametrize("which", ["log", "keys"])
def test_log_and_keys_of_different_epochs(place: Path, tmp_path: Path, which: str) -> None:
    """After a rotation neither an older log (its memory gone too) nor older keys are taken up."""
    use(place)
    for part in PARTS:
        shutil.copytree(place / part, tmp_path / "older" / part)
    with opened(place) as audit:
        assert audit.rotate_keys() == 1
        audit.log("x_test", "user@example.com").wait("published")
    for name in ("audit", "audit.state") if which == "log" else ("audit.keys",):
        shutil.rmtree(place / name)
        shutil.copytree(tmp_path / "older" / name, place / name)
    before = content(place / "audit")
    with pytest.raises(LogDamaged) as caught:
        opened(place)
    assert {"log": "rollback", "keys": "epoch_signature"}[which] == caught.value.kind_of_damage
    assert before == content(place / "audit")


@pytest.mark.parametrize("change", ["text", "log-line", "epoch-line", "third-line", "garbage", "empty", "missing"])
def test_a_changed_checkpoint_is_refused(place: Path, change: str) -> None:
    """Whatever is wrong with `checkpoint`, a writer neither believes it nor replaces it."""
    use(place)
    path = place / "audit" / "checkpoint"
    lines = path.read_bytes().split(b"\n")
    match change:
        case "text":
            lines[1] = b"1"
        case "log-line" | "epoch-line":
            index = 4 if change == "log-line" else 5
            name, _, signature = lines[index].rpartition(b" ")
            blob = base64.b64decode(signature)
            lines[index] = name + b" " + base64.b64encode(blob[:-1] + bytes([blob[-1] ^ 1]))
        case "third-line":
            lines[6:6] = [lines[5]]
        case "garbage":
            lines = [b"garbage", b""]
        case "empty":
            lines = [b""]
        case "missing":
            path.unlink()
    if change != "missing":
        path.write_bytes(b"\n".join(lines))
    before = content(place / "audit")
    with pytest.raises(LogDamaged) as caught:
        opened(place)
    assert caught.value.kind_of_damage in FINDING_KINDS
    assert before == content(place / "audit")


def test_a_file_where_a_folder_belongs(place: Path) -> None:
    """A file in the place of log, keys or state is named, and left alone."""
    for part in PARTS:
        (place / part).write_text("mine")
        with pytest.raises(AuditUnavailable) as caught:
            opened(place)
        assert part in caught.value.message
        assert (place / part).read_text() == "mine"
        (place / part).unlink()
        for other in PARTS:
            shutil.rmtree(place / other, ignore_errors=True)
    use(place)
    look(place)
