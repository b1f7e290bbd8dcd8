"""The spool: acts go on while the log is out of reach, and what they left gets into it, in order, each once."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from klingai_audit.capture.desk import Item
from klingai_audit.errors import AuditUnavailable, LogDamaged
from klingai_audit.ledger.spool import look_at
from tests.support.ledgers import event
from tests.support.spooled import POLICY, SharedLog, Writer


@pytest.fixture
def shared() -> SharedLog:
    """Give a log that others may write to."""
    return SharedLog()


def files(state: Path) -> list[Path]:
    """Return the spool's files."""
    return sorted((state / "spool").glob("*"))


def test_while_the_log_answers_nothing_waits(shared: SharedLog, tmp_path: Path) -> None:
    """With the log in reach an act leaves its entry there and no file anywhere."""
    writer = Writer(shared, tmp_path)
    assert [writer.act()] == shared.ids()
    assert not (tmp_path / "spool").exists()


def test_acts_go_on_and_their_entries_follow(shared: SharedLog, tmp_path: Path) -> None:
    """Entries wait on this machine, the log is not tried again for each act, then all are there in order."""
    writer = Writer(shared, tmp_path)
    first = writer.act()
    tried = []
    writer.fate = lambda: tried.append("") or "away"
    waiting = [writer.act(), writer.act("download"), writer.act()]
    assert (len(tried), writer.spool.down, writer.spool.waiting) == (1, True, 3)
    assert not writer.spool.drain(0.1)
    writer.fate = lambda: "ok"
    assert writer.spool.drain()
    assert [first, *waiting] == shared.ids()
    (opened, begun), (closed, counts) = shared.gaps()
    assert ("gap_opened", "gap_closed") == (opened, closed)
    assert {"spool": counts["spool"], "cause": "AuditUnavailable"} == begun
    assert (3, 0, {"download": 1, "paid_create": 2}) == (counts["late"], counts["lost"], counts["classes"])
    assert (False, []) == (writer.spool.down, files(tmp_path))


def test_gaps_stand_around_what_waited(shared: SharedLog, tmp_path: Path) -> None:
    """The entry that opens a gap is the first to be drained, the one that closes it the last."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = writer.act()
    writer.fate = lambda: "ok"
    writer.spool.drain()
    kinds = [b"gap_opened" in line or (b"gap_closed" not in line and None) for line in shared.lines]
    assert [True, None, False] == kinds
    assert waited.encode() in shared.lines[1]


@pytest.mark.parametrize("fate", ["lost", "slow"])
def test_an_answer_that_was_lost_doubles_nothing(shared: SharedLog, tmp_path: Path, fate: str) -> None:
    """What was handed to the log, and may be there, is looked for before it is appended again."""
    writer = Writer(shared, tmp_path)
    before = writer.act()
    writer.fate = lambda: fate
    doubtful = writer.act()
    Writer(shared, tmp_path / "other").act()
    writer.fate = lambda: "ok"
    assert writer.spool.drain()
    assert [before, doubtful] == [one for one in shared.ids() if one in (before, doubtful)]
    assert 3 == len(shared.ids())


def test_a_refused_class_is_refused(shared: SharedLog, tmp_path: Path) -> None:
    """While something waits, an act that wants the log itself does not begin; with the log in reach, all is drained."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = writer.act()
    writer.desk.prepare("delete")
    assert 1 == writer.desk.waits_before("delete")
    assert 0 == writer.desk.waits_before("paid_create")
    with pytest.raises(AuditUnavailable):
        writer.act("delete")
    writer.fate = lambda: "ok"
    writer.desk.prepare("delete")
    assert 0 == writer.desk.waits_before("delete")
    assert [waited, writer.act("delete")] == shared.ids()


def test_a_damaged_log_is_not_out_of_reach(shared: SharedLog, tmp_path: Path) -> None:
    """An act whose entry was refused because the log is damaged does not happen."""
    writer = Writer(shared, tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AuditUnavailable("The log is damaged.") from LogDamaged("No.", kind_of_damage="rollback")

    writer.append_batch = refuse  # type: ignore[assignment]
    with pytest.raises(AuditUnavailable, match="damaged"):
        writer.act()
    assert (False, []) == (writer.spool.down, files(tmp_path))


@pytest.mark.parametrize("limit", ["max_records = 4", "max_bytes = 131072"])
def test_the_ceiling(shared: SharedLog, tmp_path: Path, limit: str) -> None:
    """At the ceiling no further act begins, entries of acts that began are taken, and with the log acts begin again."""
    writer = Writer(shared, tmp_path, policy=f"{POLICY}{limit}\n", fate=lambda: "away")
    accepted: list[str] = []
    with pytest.raises(AuditUnavailable, match="spool is full") as caught:
        accepted.extend(writer.act(metadata={"text": "x" * 40_000}) for _ in range(10))
    assert "[spool]" in caught.value.do
    assert 3 <= len(accepted) <= 4
    with pytest.raises(AuditUnavailable, match="spool is full"):
        writer.desk.prepare("download")
    outcome = event()
    writer.desk.write([Item(outcome, None, kind="paid_create")])
    assert 0 == writer.desk.late
    writer.fate = lambda: "ok"
    assert writer.spool.drain()
    assert [*accepted, outcome.event_id] == shared.ids()
    writer.act()


def test_others_count_for_the_ceiling(shared: SharedLog, tmp_path: Path) -> None:
    """The ceiling is that of the folder: what another process has put there counts, too, as it grows."""
    policy = f"{POLICY}max_records = 5\n"
    one = Writer(shared, tmp_path, policy=policy, fate=lambda: "away")
    other = Writer(shared, tmp_path, policy=policy, fate=lambda: "away")
    one.act()
    other.act()
    one.act()
    with pytest.raises(AuditUnavailable, match="5 entries"):
        other.act()


def test_what_a_dead_process_left_is_drained(shared: SharedLog, tmp_path: Path) -> None:
    """The next writer drains it when it opens; what a living one has is left alone."""
    dead, alive = (Writer(shared, tmp_path, fate=lambda: "away") for _ in range(2))
    left, kept = [dead.act(), dead.act()], alive.act()
    dead.die()
    Writer(shared, tmp_path).spool.take_up()
    assert left == shared.ids()
    assert [alive.spool._held[0].path] == files(tmp_path)
    alive.fate = lambda: "ok"
    alive.spool.drain()
    assert [*left, kept] == shared.ids()


def test_a_drain_cut_off_anywhere_is_done_again(shared: SharedLog, tmp_path: Path) -> None:
    """Whichever answer gets lost, and whoever goes on: each entry is there once, and one that closes the gap."""
    for step in range(6):
        shared.lines.clear()
        state = tmp_path / str(step)
        dead = Writer(shared, state, fate=lambda: "away")
        waited = [dead.act() for _ in range(3)]
        answers = iter(["ok"] * step + ["lost"])
        dead.fate = lambda answers=answers: next(answers, "away")
        dead.spool.drain()
        dead.die()
        Writer(shared, state).spool.take_up()
        assert waited == shared.ids()
        assert ["gap_opened", "gap_closed"] == [kind for kind, _ in shared.gaps()]
        assert [] == files(state)


def test_batches_go_one_after_the_other(shared: SharedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fails keeps those behind it back, so that the order holds."""
    monkeypatch.setattr("klingai_audit.capture.drain._BATCH", 2)
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = [writer.act() for _ in range(7)]
    answers = iter(["ok", "ok", "ok", "away"])
    writer.fate = lambda: next(answers, "ok")
    assert not writer.spool.drain()
    assert waited[:1] == shared.ids()
    assert writer.spool.drain()
    assert waited == shared.ids()


@pytest.mark.parametrize("step, counts", [(2, [3]), (3, [2])])
def test_what_comes_while_it_drains(shared: SharedLog, tmp_path: Path, step: int, counts: list[int]) -> None:
    """Entries that come while the others are on their way go behind them, into the spool or into the log."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = [writer.act(), writer.act()]
    more = iter(range(4))

    def fate() -> str:
        if next(more, None) == step:
            waited.append(writer.act())
        return "ok"

    writer.fate = fate
    assert writer.spool.drain()
    assert waited == shared.ids()
    assert counts == [facts["late"] for kind, facts in shared.gaps() if kind == "gap_closed"]


def test_a_forged_record_is_put_aside(shared: SharedLog, tmp_path: Path) -> None:
    """A line that is no record of this spool never gets into the log; it is kept, and the log says so."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = writer.act()
    writer.die()
    (path,) = files(tmp_path)
    genuine = path.read_bytes().splitlines()[1]
    forged = genuine.replace(waited.encode(), event().event_id.encode())
    with path.open("ab") as file:
        file.write(forged + b"\n{")
    Writer(shared, tmp_path).spool.take_up()
    assert [waited] == shared.ids()
    (_, facts) = shared.gaps()[-1]
    aside = facts["set_aside"]
    assert forged + b"\n{" == (tmp_path / "aside" / aside["sha256"]).read_bytes()
    assert (1, 0, len(forged) + 2) == (facts["late"], facts["lost"], aside["bytes"])


def test_records_that_are_missing_are_counted(shared: SharedLog, tmp_path: Path) -> None:
    """Of a dead process records taken out of the middle are noticed, of a living one also those at the end."""
    for name, keep, lost in (("dead", [0, 1, 3], 1), ("living", [0, 1], 2)):
        state = tmp_path / name
        writer = Writer(shared, state, fate=lambda: "away")
        ids = [writer.act() for _ in range(3)]
        (path,) = files(state)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[number] for number in keep))
        if name == "dead":
            writer.die()
            Writer(shared, state).spool.take_up()
        else:
            writer.fate = lambda: "ok"
            writer.spool.drain()
        assert lost == shared.gaps()[-1][1]["lost"]
        assert [ids[number - 1] for number in keep if number] == shared.ids()[-len(keep) + 1 :]


def test_records_in_another_order_go_in_by_number(shared: SharedLog, tmp_path: Path) -> None:
    """Whoever turns lines around, or repeats them, changes nothing."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = [writer.act() for _ in range(4)]
    writer.die()
    (path,) = files(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*reversed(lines), *lines[1:3]]))
    Writer(shared, tmp_path).spool.take_up()
    assert waited == shared.ids()


def test_a_file_under_another_name_is_no_spool(shared: SharedLog, tmp_path: Path) -> None:
    """A copy of a file that was drained, under another name, gets nothing into the log."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = writer.act()
    (path,) = files(tmp_path)
    copy = path.read_bytes()
    writer.fate = lambda: "ok"
    writer.spool.drain()
    (tmp_path / "spool" / ("0" * 32 + ".jsonl")).write_bytes(copy)
    (tmp_path / "spool" / path.name).write_bytes(copy)
    Writer(shared, tmp_path).spool.take_up()
    assert [waited] == shared.ids()
    assert [] == files(tmp_path)
    assert len(copy) == shared.gaps()[-1][1]["set_aside"]["bytes"]


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="symbolic links")
def test_what_is_no_file_stays(shared: SharedLog, tmp_path: Path) -> None:
    """Links and folders with the name of a spool file are left alone, and hold nothing up."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = writer.act()
    writer.die()
    link, folder = (tmp_path / "spool" / (digit * 32 + ".jsonl") for digit in "0f")
    link.symlink_to("/etc/hostname")
    folder.mkdir()
    Writer(shared, tmp_path).spool.take_up()
    assert [waited] == shared.ids()
    assert [link, folder] == files(tmp_path)


def test_an_empty_file_is_removed(shared: SharedLog, tmp_path: Path) -> None:
    """A process that died before its first record leaves a file of nothing, and the log says nothing of it."""
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / ("0" * 32 + ".jsonl")).touch()
    Writer(shared, tmp_path).spool.take_up()
    assert ([], []) == (files(tmp_path), shared.lines)


def test_a_log_that_cannot_be_opened(shared: SharedLog, tmp_path: Path) -> None:
    """A writer starts without its log if the log was here before and entries may wait; else it does not start."""
    begun: list[str] = []

    def opening() -> None:
        raise AuditUnavailable("Nobody answers.")

    for policy, remembered in ((POLICY, False), ("", True)):
        writer = Writer(shared, tmp_path, policy=policy)
        writer.spool._is_remembered = lambda remembered=remembered: remembered
        with pytest.raises(AuditUnavailable, match="Nobody"):
            writer.spool.start(opening, lambda: None)
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    writer.spool._is_remembered = lambda: True
    writer.spool.start(opening, lambda: begun.append("begun"))
    waited = writer.act()
    assert (True, 0, []) == (writer.spool.down, writer.opened, begun)
    assert not writer.spool.drain()
    writer.fate = lambda: "ok"
    assert writer.spool.drain()
    assert (1, ["begun"], [waited]) == (writer.opened, begun, shared.ids())
    assert writer.spool.drain()
    assert ["begun"] == begun


def test_what_waits_can_be_told_without_a_key(shared: SharedLog, tmp_path: Path) -> None:
    """Files, records, bytes and the oldest moment are there for whoever may read the state folder."""
    assert (0, 0, 0, None) == look_at(tmp_path / "spool")
    writers = [Writer(shared, tmp_path, fate=lambda: "away") for _ in range(2)]
    for writer in writers:
        writer.act()
    writers[0].act()
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert (2, 5, size, "2026-11-21T12:00:00.000000Z") == look_at(tmp_path / "spool")


def test_close_leaves_what_waits(shared: SharedLog, tmp_path: Path) -> None:
    """A process that ends while the log is away lets go of its file; one that finds it in reach empties it first."""
    one = Writer(shared, tmp_path, fate=lambda: "away")
    waited = one.act()
    one.spool.close()
    assert 1 == len(files(tmp_path))
    other = Writer(shared, tmp_path)
    other.spool.take_up()
    other.fate = lambda: "away"
    more = other.act()
    other.fate = lambda: "ok"
    other.spool.close()
    assert ([waited, more], []) == (shared.ids(), files(tmp_path))


def test_the_thread_drains_by_itself(shared: SharedLog, tmp_path: Path) -> None:
    """Nobody has to act again: as soon as the log answers, what waits gets into it."""
    writer = Writer(shared, tmp_path, fate=lambda: "away", quiet=False)
    waited = [writer.act(), writer.act()]
    writer.fate = lambda: "ok"
    deadline = time.monotonic() + 30
    while writer.spool.down and time.monotonic() < deadline:
        time.sleep(0.01)
    assert waited == shared.ids()
    writer.spool.close()


def test_what_a_process_leaves_while_others_go_on(shared: SharedLog, tmp_path: Path) -> None:
    """A writer that saw another one's file comes back to it, and drains it once that one has ended."""
    other = Writer(shared, tmp_path, fate=lambda: "away")
    left = other.act()
    writer = Writer(shared, tmp_path)
    writer.spool.take_up()
    assert not writer.spool.down
    other.die()
    assert writer.spool.settle()
    assert ([left], []) == (shared.ids(), files(tmp_path))


def test_a_record_that_changes_between_two_looks(shared: SharedLog, tmp_path: Path) -> None:
    """A record that was genuine when the file was read, and is not when it is sent, is put aside at the next try."""
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    waited = [writer.act(), writer.act()]
    (path,) = files(tmp_path)

    def change() -> str:
        path.write_bytes(path.read_bytes().replace(waited[1].encode(), event().event_id.encode()))
        writer.fate = lambda: "ok"
        return "ok"

    calls = iter(range(9))
    writer.fate = lambda: change() if next(calls) == 1 else "ok"
    assert not writer.spool.drain()
    assert writer.spool.drain()
    assert waited[:1] == shared.ids()
    facts = shared.gaps()[-1][1]
    assert (1, 1) == (facts["late"], facts["lost"])
    assert "set_aside" in facts


def test_a_new_file_taken_for_one_left_behind(
    shared: SharedLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer drains at the moment in which a new file is not locked yet: another file is begun."""
    other = Writer(shared, tmp_path)
    writer = Writer(shared, tmp_path, fate=lambda: "away")
    real, moments, here = fcntl.flock, iter(["held", "gone"]), threading.get_ident()

    def flock(fd: int, operation: int) -> None:
        match next(moments, None) if threading.get_ident() == here else None:
            case "held":
                raise BlockingIOError(errno.EAGAIN, "held")
            case "gone":
                other.spool.take_up()
        real(fd, operation)

    monkeypatch.setattr("klingai_audit.ledger.spool.fcntl.flock", flock)
    waited = writer.act()
    assert 1 == len(writer.spool._held)
    writer.fate = lambda: "ok"
    assert writer.spool.drain()
    assert [waited] == shared.ids()
    assert ["gap_opened", "gap_closed"] == [kind for kind, _ in shared.gaps()]
