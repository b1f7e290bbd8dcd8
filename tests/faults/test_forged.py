"""Lines that no writer wrote: they go aside or are damage, they are never signed, and nothing acknowledged is lost.

The forger can write into the log folder and has no key.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.line import splice
from klingai_audit.tlog.merkle import leaf_hash
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import judge
from tests.support.ledgers import HandClock, Ledger, event, next_batch
from tests.support.settle import settle

DAY = "audit-2026-11-21.jsonl"


def opened(base: Path, clock: HandClock | None = None) -> Ledger:
    return Ledger(base, ops=QuickOps(), clock=clock or HandClock()).open()


def append_bytes(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def plausible(ledger: Ledger, *, skip: int = 0) -> bytes:
    """A line that fits behind the log's last one in number, link and time; only a seal would need the key."""
    lines = ledger.lines()
    return splice(event().body, len(lines) + skip, b"2026-11-21T12:00:00.000000Z", leaf_hash(lines[-1])) + b"\n"


def sealed_by_guess(ledger: Ledger) -> bytes:
    """The same with a seal that the forger made up."""
    return plausible(ledger)[:-2] + b',"seal":"' + b"A" * 43 + b'"}\n'


FORGERIES: dict[str, Callable[[Ledger], bytes]] = {
    "garbage": lambda ledger: b"garbage\n",
    "empty-lines": lambda ledger: b"\n\n\n",
    "without-end": lambda ledger: b'{"schema":1,"event_id":"',
    "zero-bytes": lambda ledger: bytes(5_000),
    "binary": lambda ledger: hashlib.shake_256(b"forged").digest(3_000),
    "plausible": plausible,
    "two-plausible": lambda ledger: plausible(ledger) + plausible(ledger, skip=1),
    "guessed-seal": sealed_by_guess,
    "copy-of-the-last": lambda ledger: ledger.lines()[-1] + b"\n",
    "copy-of-all": lambda ledger: b"".join(line + b"\n" for line in ledger.lines()),
    "huge": lambda ledger: b"x" * 3_000_000 + b"\n",
}


@pytest.fixture(params=list(FORGERIES))
def forge(request: pytest.FixtureRequest) -> Callable[[Ledger], bytes]:
    """Each kind of forged bytes."""
    return FORGERIES[str(request.param)]


def check_aside(ledger: Ledger, data: bytes) -> None:
    """The bytes are kept under their digest, and the log says so in one entry."""
    digest = hashlib.sha256(data).hexdigest()
    assert data == (ledger.state.path / "aside" / digest).read_bytes()
    entries = judge(ledger.log, ledger.vkey).entries
    recovered = [entry["metadata"] for entry in entries if entry["event_type"] == "log_recovered"]
    assert [{"sha256": digest, "bytes": len(data)}] == [metadata["set_aside"] for metadata in recovered]


def test_forged_while_a_writer_runs(tmp_path: Path, forge: Callable[[Ledger], bytes]) -> None:
    """What appears behind the last entry of a living writer goes aside before its next entry."""
    ledger = opened(tmp_path)
    assert ledger.appender.append(event()).wait("published").seq == 2
    data = forge(ledger)
    append_bytes(ledger.log / DAY, data)
    assert ledger.appender.append(event()).wait("published").seq == 4
    ledger.close()
    check_aside(ledger, data)
    assert judge(ledger.log, ledger.vkey).types()[2:5] == ["x_test", "log_recovered", "x_test"]


def test_forged_before_another_writer_looks(tmp_path: Path, forge: Callable[[Ledger], bytes]) -> None:
    """A writer that has yet to catch up takes over what is genuine and puts the rest aside."""
    ledger, other = opened(tmp_path), opened(tmp_path)
    acknowledged = {}
    for _ in range(3):
        receipt = other.appender.append(event()).wait("published")
        acknowledged[receipt.event_id] = receipt.seq or 0
    data = forge(ledger)
    append_bytes(ledger.log / DAY, data)
    receipt = ledger.appender.append(event()).wait()
    acknowledged[receipt.event_id] = receipt.seq or 0
    for writer in (other, ledger):
        writer.close()
    check_aside(ledger, data)
    judge(ledger.log, ledger.vkey).check_acknowledged(acknowledged)


@pytest.mark.parametrize("ending", ["closed", "crashed"])
def test_forged_while_nobody_looks(tmp_path: Path, forge: Callable[[Ledger], bytes], ending: str) -> None:
    """After a clean end or a crash the next open puts aside what stands behind the last entry."""
    ledger = opened(tmp_path)
    receipt = ledger.appender.append(event()).wait()
    (ledger.close if ending == "closed" else ledger.die)()
    data = forge(ledger)
    append_bytes(ledger.log / DAY, data)
    opened(tmp_path).close()
    check_aside(ledger, data)
    judge(ledger.log, ledger.vkey).check_acknowledged({receipt.event_id: 2})


def test_forged_into_an_empty_log(tmp_path: Path) -> None:
    """What stands in the folder before the first entry of a half-finished creation is no entry."""
    begun = Ledger(tmp_path, ops=QuickOps(), clock=HandClock())
    forged = splice(event().body, 0, b"2026-11-21T12:00:00.000000Z", hashlib.sha256(b"").digest()) + b"\n"
    (begun.log / DAY).write_bytes(forged)
    ledger = opened(tmp_path)
    ledger.close()
    check_aside(ledger, forged)
    assert judge(ledger.log, ledger.vkey).types()[:3] == ["log_created", "log_recovered", "log_opened"]


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("day", ["2026-11-22", "2099-12-31"])
@pytest.mark.parametrize("claim", [0, 1, 2, 3, 4, 999])
def test_a_forged_file_of_a_later_day(tmp_path: Path, alive: bool, day: str, claim: int) -> None:
    """A day file that no writer made goes aside, whatever its lines claim to be."""
    ledger = opened(tmp_path)
    ledger.appender.append(event()).wait("published")
    if not alive:
        ledger.close()
    forged = splice(event().body, claim, f"{day}T00:00:00.000000Z".encode(), bytes(32)) + b"\n"
    (ledger.log / f"audit-{day}.jsonl").write_bytes(forged)
    if not alive:
        ledger = opened(tmp_path)
    receipt = ledger.appender.append(event()).wait("published")
    ledger.close()
    check_aside(ledger, forged)
    assert [DAY] == [path.name for path in ledger.log.glob("audit-*")]
    judge(ledger.log, ledger.vkey).check_acknowledged({receipt.event_id: receipt.seq or 0})


@pytest.mark.parametrize("alive", [True, False])
def test_an_empty_file_of_a_later_day(tmp_path: Path, alive: bool) -> None:
    """An empty day file is in nobody's way and does not stay."""
    ledger = opened(tmp_path)
    if not alive:
        ledger.close()
    (ledger.log / "audit-2030-01-01.jsonl").touch()
    if not alive:
        ledger = opened(tmp_path)
    ledger.appender.append(event()).wait("published")
    ledger.close()
    assert [DAY] == [path.name for path in ledger.log.glob("audit-*")]
    judge(ledger.log, ledger.vkey)


def test_forged_lines_in_an_earlier_file_are_damage(tmp_path: Path) -> None:
    """A line behind the last one of yesterday's file stands among signed ones: that is never put right."""
    clock = HandClock()
    ledger = opened(tmp_path, clock)
    ledger.appender.append(event()).wait()
    clock.advance(86_400)
    ledger.appender.append(event()).wait()
    ledger.close()
    append_bytes(ledger.log / DAY, b"garbage\n")
    before = {path: path.read_bytes() for path in ledger.log.rglob("*") if path.is_file()}
    again = Ledger(tmp_path, ops=QuickOps(), clock=clock)
    try:
        again.open().close()
    except LogDamaged:
        assert before == {path: path.read_bytes() for path in ledger.log.rglob("*") if path.is_file()}
    with pytest.raises((AssertionError, ValueError)):
        judge(ledger.log, ledger.vkey)


def test_a_forger_who_never_stops(tmp_path: Path) -> None:
    """Somebody appends garbage all the time: what was acknowledged is there, and garbage is never signed."""
    ledger = opened(tmp_path)
    going = True

    def forge() -> None:
        while going:
            append_bytes(ledger.log / DAY, b"garbage\n")
            time.sleep(0.004)

    thread = threading.Thread(target=forge, daemon=True)
    thread.start()
    acknowledged: dict[str, int] = {}
    stopped = ""
    for _ in range(300):
        try:
            receipt = ledger.appender.append(event()).wait(timeout=20)
            acknowledged[receipt.event_id] = receipt.seq or 0
        except AuditUnavailable as error:
            stopped = error.message
            if "wrote into" in stopped:
                break
    going = False
    thread.join()
    ledger.die()
    assert len(acknowledged) > 0
    written = (ledger.log / DAY).read_bytes()
    assert all(event_id.encode() in written for event_id in acknowledged)
    try:
        settle(tmp_path, acknowledged, clock=ledger.clock)
    except LogDamaged:
        assert "wrote into" in stopped


def test_a_line_in_the_moment_of_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that appear between the writer's look and its write are noticed before it writes."""
    ledger = opened(tmp_path)
    ledger.appender.append(event()).wait("published")
    pull = type(ledger.store.transaction().__enter__()).pull
    forged = iter([b"garbage\n", b"more\n"])

    def forging(self: object, begin: int, *, counted: bool = False) -> object:
        found = pull(self, begin, counted=counted)  # type: ignore[arg-type]
        append_bytes(ledger.log / DAY, next(forged, b""))
        return found

    ledger.store.close()
    monkeypatch.setattr("klingai_audit.stores.directory_writer.DirectoryTransaction.pull", forging)
    assert ledger.appender.append(event()).wait(timeout=20).seq == 5
    ledger.close()
    assert judge(ledger.log, ledger.vkey).types()[3:6] == ["log_recovered", "log_recovered", "x_test"]


def test_somebody_who_is_always_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If bytes appear at each look, the event is refused with a reason, and later ones may succeed."""
    ledger = opened(tmp_path)
    ledger.appender.append(event()).wait("published")
    pull = type(ledger.store.transaction().__enter__()).pull
    ledger.store.close()

    def forging(self: object, begin: int, *, counted: bool = False) -> object:
        found = pull(self, begin, counted=counted)  # type: ignore[arg-type]
        append_bytes(ledger.log / DAY, b"garbage\n")
        return found

    with monkeypatch.context() as patch:
        patch.setattr("klingai_audit.stores.directory_writer.DirectoryTransaction.pull", forging)
        with pytest.raises(AuditUnavailable, match="keeps writing into the day file"):
            ledger.appender.append(event()).wait(timeout=20)
    receipt = ledger.appender.append(event()).wait()
    ledger.close()
    judge(ledger.log, ledger.vkey).check_acknowledged({receipt.event_id: receipt.seq or 0})


def test_a_writer_that_dies_behind_foreign_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between a disturbed write and its withdrawal: the next writer takes the foreign bytes out and goes on."""

    def act(tell: Tell) -> None:
        ledger = opened(tmp_path)
        tell(str(ledger.appender.append(event()).wait("published").seq))
        write = QuickOps.write

        def disturbing(self: QuickOps, fd: int, data: bytes) -> int:
            append_bytes(ledger.log / DAY, b"somebody was here\n{")
            return write(self, fd, data)

        def dying(self: QuickOps, fd: int, length: int) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(QuickOps, "write", disturbing)
        monkeypatch.setattr(QuickOps, "truncate", dying)
        ledger.appender.append(event("x_second")).wait(timeout=20)

    child = Child(act)
    assert child.wait() == -signal.SIGKILL
    before = (tmp_path / "audit" / DAY).read_bytes()
    assert before.endswith(b"\n")
    assert b"somebody was here\n{{" in before
    ledger = opened(tmp_path)
    ledger.close()
    check_aside(ledger, b"somebody was here\n{")
    judged = judge(ledger.log, ledger.vkey)
    assert judged.types().count("x_second") == 1
    assert before.replace(b"somebody was here\n{", b"") in (ledger.log / DAY).read_bytes()


@pytest.mark.parametrize("alive", [True, False])
def test_foreign_lines_between_days(tmp_path: Path, alive: bool) -> None:
    """Foreign bytes at the end of one day's file and in a file of their own, before a batch of the next day."""
    ledger, clock = opened(tmp_path), HandClock()
    other = opened(tmp_path) if alive else None
    ledger.appender.append(event()).wait("published")
    ledger.die()
    batch = next_batch(ledger, 2, "2026-11-23T12:00:00.000000Z")
    append_bytes(ledger.log / DAY, b"garbage without an end")
    (ledger.log / "audit-2026-11-22.jsonl").write_bytes(b"more\n\n")
    (ledger.log / "audit-2026-11-23.jsonl").write_bytes(b"{" + batch)
    if other is not None:
        other.appender.append(event()).wait(timeout=20)
        other.die()
    clock.advance(2 * 86_400 + 60)
    judged = settle(tmp_path, {}, clock=clock)
    assert judged.types().count("log_recovered") == 1
    assert sorted(path.name for path in ledger.log.glob("audit-*")) == [DAY, "audit-2026-11-23.jsonl"]
    (name,) = (ledger.state.path / "aside").iterdir()
    assert name.read_bytes() == b"garbage without an end\nmore\n\n{"


def test_foreign_lines_and_a_living_writer(tmp_path: Path) -> None:
    """A writer that catches up does the same, while the one whose file was replaced goes on in the new one."""
    ledger, other = opened(tmp_path), opened(tmp_path)
    acknowledged = {}
    with Ledger(tmp_path, ops=QuickOps(), clock=ledger.clock).store.publication():
        receipt = ledger.appender.append(event()).wait()
        acknowledged[receipt.event_id] = receipt.seq or 0
        append_bytes(ledger.log / DAY, b"garbage\n" + next_batch(ledger, 2))
        receipt = other.appender.append(event()).wait(timeout=20)
    assert (receipt.seq or 0) - next(iter(acknowledged.values())) == 4  # two of the batch, `log_recovered`, this one
    acknowledged[receipt.event_id] = receipt.seq or 0
    receipt = ledger.appender.append(event()).wait("published")
    acknowledged[receipt.event_id] = receipt.seq or 0
    for writer in (other, ledger):
        writer.close()
    judge(ledger.log, ledger.vkey).check_acknowledged(acknowledged)
    settle(tmp_path, acknowledged, clock=HandClock())


# --- acknowledged, not yet signed ---------------------------------------------------------------------


def unsigned(base: Path) -> dict[str, int]:
    """Let a process write entries that it acknowledges and cannot sign, and die."""

    def act(tell: Tell) -> None:
        ledger = opened(base)
        ledger.appender.append(event()).wait("published")
        with Ledger(base, ops=QuickOps(), clock=ledger.clock).store.publication():
            for _ in range(4):
                receipt = ledger.appender.append(event()).wait()
                tell(f"{receipt.event_id} {receipt.seq}")
            os.kill(os.getpid(), signal.SIGKILL)

    child = Child(act)
    child.wait()
    return {line[:36]: int(line[37:]) for line in child.lines}


def test_unsigned_entries_are_signed_by_the_next_writer(tmp_path: Path) -> None:
    """What was acknowledged and not signed is sealed; the next open signs it."""
    acknowledged = unsigned(tmp_path)
    assert len(acknowledged) == 4
    settle(tmp_path, acknowledged, clock=HandClock())


@pytest.mark.parametrize("line", [3, 4, 5])
def test_an_edit_of_unsigned_entries_is_damage(tmp_path: Path, line: int) -> None:
    """A change of an acknowledged entry that no signature covers yet is found by the seals behind it."""
    unsigned(tmp_path)
    edit(tmp_path / "audit" / DAY, line)
    before = (tmp_path / "audit" / DAY).read_bytes()
    with pytest.raises(LogDamaged) as damaged:
        opened(tmp_path)
    assert damaged.value.kind_of_damage == "entry_changed"
    assert before == (tmp_path / "audit" / DAY).read_bytes()


@pytest.mark.parametrize("line", [3, 5])
def test_an_edit_beside_a_living_writer_is_damage(tmp_path: Path, line: int) -> None:
    """A writer that catches up finds the same in what another writer acknowledged, and stops."""
    ledger, other = opened(tmp_path), opened(tmp_path)
    with Ledger(tmp_path, ops=QuickOps(), clock=ledger.clock).store.publication():
        for _ in range(5):
            ledger.appender.append(event()).wait()
        edit(ledger.log / DAY, line)
        with pytest.raises(AuditUnavailable) as caught:
            other.appender.append(event()).wait(timeout=20)
        assert isinstance(caught.value.__cause__, LogDamaged)
    for writer in (other, ledger):
        writer.die()


def edit(path: Path, line: int) -> None:
    lines = path.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b"success", b"failure")
    path.write_bytes(b"\n".join(lines))


def test_an_older_checkpoint_makes_nobody_cut_entries(tmp_path: Path) -> None:
    """Somebody puts an older checkpoint back, across a rotation: a writer that catches up loses nothing."""
    ledger, other = opened(tmp_path), opened(tmp_path)
    acknowledged = {}
    ledger.appender.append(event()).wait("published")
    older = (ledger.log / "checkpoint").read_bytes()
    other.appender.rotate()
    for _ in range(3):
        receipt = other.appender.append(event()).wait("published")
        acknowledged[receipt.event_id] = receipt.seq or 0
    (ledger.log / "checkpoint").write_bytes(older)
    receipt = ledger.appender.append(event()).wait("published")
    acknowledged[receipt.event_id] = receipt.seq or 0
    for writer in (other, ledger):
        writer.close()
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(acknowledged)
    assert "log_recovered" not in judged.types()
