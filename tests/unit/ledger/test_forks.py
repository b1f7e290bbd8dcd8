"""Forked workers: each has its own writer, nothing of the parent's is written twice, and none is lost at the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from klingai_audit.durable import NO_FORK
from klingai_audit.errors import AuditUnavailable
from tests.support.children import Child, Tell
from tests.support.faulty import QuickOps
from tests.support.judge import Judged, judge
from tests.support.ledgers import Ledger, end_event, event
from tests.support.settle import settle


def told(child: Child) -> dict[str, int]:
    """What a child was told: event ids and numbers."""
    assert child.wait() == 0
    return {event_id: int(seq) for event_id, seq in (line.split(" ") for line in child.lines)}


def log_some(ledger: Ledger, tell: Tell, count: int = 10) -> None:
    for _ in range(count):
        receipt = ledger.appender.append(event()).wait()
        tell(f"{receipt.event_id} {receipt.seq}")


def test_a_child_logs_beside_its_parent(ledger: Ledger) -> None:
    """The child opens a writer of its own with its first event; both go on, and the log verifies."""
    acknowledged: dict[str, int] = {}
    children = []
    for _ in range(3):
        log_some(ledger, lambda line: acknowledged.update([(line[:36], int(line[37:]))]))
        children.append(Child(lambda tell: (log_some(ledger, tell), ledger.close())[0]))
    log_some(ledger, lambda line: acknowledged.update([(line[:36], int(line[37:]))]))
    for child in children:
        acknowledged |= told(child)
    ledger.close()
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(acknowledged)
    assert (70, 4, 4) == (
        len(acknowledged),
        judged.types().count("log_opened"),
        judged.types().count("log_closed"),
    )


def test_forking_while_others_append(ledger: Ledger) -> None:
    """Forks at any moment of a busy writer and publisher: no child hangs, none disturbs the parent."""
    acknowledged: dict[str, int] = {}
    going = True

    def work() -> None:
        number = 0
        while going:
            number += 1
            once = number % 5 == 0
            one = end_event(f"task {number}") if once else event()
            receipt = ledger.appender.append(one, once=once).wait("published" if number % 3 == 0 else "durable")
            acknowledged[receipt.event_id] = receipt.seq or 0

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = []
    for _ in range(25):
        time.sleep(0.003)
        children.append(Child(lambda tell: log_some(ledger, tell, 2)))
    for child in children:
        acknowledged |= told(child)
    going = False
    for thread in threads:
        thread.join()
    ledger.close()
    settle(ledger.base, acknowledged)


def test_what_the_parent_queued_is_not_the_childs(ledger: Ledger) -> None:
    """Events that wait in the parent's queue at the moment of the fork are written once, by the parent."""
    other = Ledger(ledger.base, ops=QuickOps())
    with other.store.transaction():
        receipts = [ledger.appender.append(event()) for _ in range(20)]
        child = Child(lambda tell: log_some(ledger, tell, 1))
    other.store.close()
    acknowledged = {receipt.event_id: receipt.wait().seq or 0 for receipt in receipts} | told(child)
    ledger.close()
    settle(ledger.base, acknowledged)


def test_a_child_that_logs_nothing_writes_nothing(ledger: Ledger) -> None:
    """A fork by itself leaves no trace, whether the child closes the log or just ends."""
    before = ledger.lines()
    for act in (lambda tell: ledger.close(), lambda tell: ledger.appender.flush(), lambda tell: None):
        assert Child(act).wait() == 0
    assert before == ledger.lines()
    assert ledger.appender.append(event()).wait("published").seq == len(before)


def test_a_childs_child(ledger: Ledger) -> None:
    """A child of a child is a process like any other."""

    def act(tell: Tell) -> None:
        log_some(ledger, tell, 1)
        grandchild = Child(lambda inner: log_some(ledger, inner, 1))
        for line in told(grandchild).items():
            tell(f"{line[0]} {line[1]}")
        log_some(ledger, tell, 1)

    acknowledged = told(Child(act))
    assert len(acknowledged) == 3
    ledger.close()
    settle(ledger.base, acknowledged)


def test_a_closed_log_stays_closed_in_a_child(ledger: Ledger) -> None:
    """Closing before the fork, or in the child before its first event, ends the log there."""
    ledger.appender.append(event()).wait()

    def close_first(tell: Tell) -> None:
        ledger.close()
        with pytest.raises(AuditUnavailable, match="closed"):
            ledger.appender.append(event())
        tell("refused")

    child = Child(close_first)
    assert (0, ["refused"]) == (child.wait(), child.lines)
    ledger.close()
    child = Child(close_first)
    assert (0, ["refused"]) == (child.wait(), child.lines)


def test_a_child_may_rotate(ledger: Ledger) -> None:
    """A child rotates the keys; the parent goes on with the new epoch."""
    ledger.appender.append(event()).wait()
    assert Child(lambda tell: ledger.appender.rotate()).wait() == 0
    ledger.appender.append(event()).wait("published")
    assert ledger.keys.current.epoch == 1
    ledger.close()
    settle(ledger.base, {})


def test_locks_of_a_killed_parent_are_free(tmp_path: Path) -> None:
    """If the parent dies with the lock in its hands, a child that outlives it can log."""
    go, done = tmp_path / "go", tmp_path / "done"

    def survivor(ledger: Ledger) -> None:
        while not go.exists():
            time.sleep(0.01)
        ledger.appender.append(event()).wait(timeout=50)
        ledger.close()
        done.touch()

    def parent(tell: Tell) -> None:
        ledger = Ledger(tmp_path, ops=QuickOps()).open()
        with ledger.store.transaction():
            Child(lambda inner: survivor(ledger))
            tell("locked")
            time.sleep(60)

    child = Child(parent)
    while not child.lines:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    go.touch()
    assert -signal.SIGKILL == child.wait()
    until = time.monotonic() + 60
    while not done.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_forks_wait_for_moments_that_must_not_be_copied(ledger: Ledger) -> None:
    """While a descriptor or a database comes into being, a fork waits; afterwards both processes are free again."""
    with NO_FORK:
        forked = threading.Event()

        def fork() -> None:
            Child(lambda tell: None).wait()
            forked.set()

        thread = threading.Thread(target=fork)
        thread.start()
        assert not forked.wait(0.1)
    thread.join()
    assert forked.is_set()
    assert NO_FORK.acquire(timeout=10)  # what other tests left running may hold it for a moment
    NO_FORK.release()


def _child_of_multiprocessing(base: str, number: int) -> None:
    ledger = Ledger(Path(base), ops=QuickOps()).open()
    for _ in range(50):
        ledger.appender.append(event(metadata={"child": number}))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_of_multiprocessing_flush_at_their_end(tmp_path: Path, method: str) -> None:
    """A `multiprocessing` child that returns without closing the log loses nothing that it appended."""
    context = multiprocessing.get_context(method)
    Ledger(tmp_path, ops=QuickOps()).open().close()
    processes = [context.Process(target=_child_of_multiprocessing, args=(str(tmp_path), n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [0, 0] == [process.exitcode for process in processes]
    ledger = Ledger(tmp_path, ops=QuickOps())
    judged = judge(ledger.log, ledger.vkey)
    assert (100, 3, 3) == tuple(judged.types().count(name) for name in ("x_test", "log_opened", "log_closed"))


def test_an_inherited_log_flushes_at_a_childs_end(ledger: Ledger) -> None:
    """A forked `multiprocessing` child that logged through its parent's object loses nothing either."""

    def work() -> None:
        for _ in range(50):
            ledger.appender.append(event())

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    ledger.close()
    judged = judge(ledger.log, ledger.vkey)
    assert (50, 2, 2) == tuple(judged.types().count(name) for name in ("x_test", "log_opened", "log_closed"))


def run(tmp_path: Path, text: str) -> Judged:
    """Run a program of its own that has a `ledger`, and judge the log that it leaves."""
    program = """
        import os, sys
        from pathlib import Path
        from tests.support.faulty import QuickOps
        from tests.support.ledgers import Ledger, event
        ledger = Ledger(Path(sys.argv[1]), ops=QuickOps()).open()
    """
    source = textwrap.dedent(program) + textwrap.dedent(text)
    root = str(Path(__file__).resolve().parents[3])
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], cwd=root, check=True, timeout=60)
    ledger = Ledger(tmp_path, ops=QuickOps()).open()
    ledger.close()
    return judge(ledger.log, ledger.vkey)


def test_a_program_that_forgets_to_close_loses_nothing(tmp_path: Path) -> None:
    """At the end of the program what was appended is committed and the log is closed."""
    judged = run(tmp_path, "for _ in range(100): ledger.appender.append(event())")
    assert (100, 2) == tuple(judged.types().count(name) for name in ("x_test", "log_closed"))


def test_a_log_that_nobody_holds_any_more_loses_nothing(tmp_path: Path) -> None:
    """Dropping the last reference does not drop what was appended."""
    judged = run(tmp_path, "ledger.appender.append(event()); del ledger")
    assert (1, 2) == tuple(judged.types().count(name) for name in ("x_test", "log_closed"))


def test_what_was_acknowledged_survives_a_hard_exit(tmp_path: Path) -> None:
    """`os._exit` loses what was not acknowledged, and nothing else."""
    judged = run(
        tmp_path,
        """
        ledger.appender.append(event()).wait()
        ledger.appender.append(event())
        os._exit(0)
        """,
    )
    assert judged.types().count("x_test") in (1, 2)
    assert judged.types().count("log_closed") == 1


def test_ends_from_four_processes_stand_once(tmp_path: Path) -> None:
    """Four processes report the same two hundred ends, each in its own order: each end stands once."""
    Ledger(tmp_path, ops=QuickOps()).open().close()

    def act(tell: Tell, number: int) -> None:
        with Ledger(tmp_path, ops=QuickOps()) as ledger:
            tasks = [f"task {(number * 53 + n * 7) % 200}" for n in range(200)]
            for begin in range(0, 200, 20):
                receipts = [ledger.appender.append(end_event(task), once=True) for task in tasks[begin : begin + 20]]
                for receipt in receipts:
                    tell(f"{receipt.wait().event_id} {receipt.seq}")

    children = [Child(lambda tell, number=number: act(tell, number)) for number in range(4)]  # type: ignore[misc]
    answers = [told(child) for child in children]
    assert [answers[0]] * 4 == answers
    ledger = Ledger(tmp_path, ops=QuickOps())
    judged = judge(ledger.log, ledger.vkey)
    judged.check_acknowledged(answers[0])
    assert judged.types().count("task_completed") == 200
