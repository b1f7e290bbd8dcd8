"""Worker processes: same reports in the same order, and nothing lost when a worker dies."""

from __future__ import annotations

import sys

import pytest

from klingai_audit.stores.directory import DirectoryStore
from klingai_audit.trust import pool
from klingai_audit.trust.chunk import Report, Task
from klingai_audit.trust.pool import run_tasks
from klingai_audit.trust.verify import verify
from klingai_audit.trust.worker import file_reader, run_task
from tests.support.logsmith import Smith

SMITH = Smith().create().work(600)


@pytest.fixture
def tasks(tmp_path) -> list[Task]:
    SMITH.write(tmp_path)
    path = tmp_path / "audit-2026-11-20.jsonl"
    size = path.stat().st_size
    steps = range(0, size, 20_000)
    hashes = str(tmp_path / "tree" / "0")
    return [
        Task(n, str(path), "2026-11-20", at, min(at + 20_000, size), size, hashes, decode=True)
        for n, at in enumerate(steps)
    ]


def here(task: Task) -> Report:
    return run_task(task, file_reader(task.path), file_reader(task.hashes))


def test_workers_give_what_this_process_gives(tasks):
    """Two workers and none: equal reports, in the order of the tasks."""
    assert list(run_tasks(tasks, here, 2)) == list(run_tasks(tasks, here, 1)) == [here(task) for task in tasks]


def test_tasks_of_a_dead_worker_are_done_here(tasks, monkeypatch):
    """A worker that dies at its first task leaves all of them to this process."""
    monkeypatch.setattr(pool, "_COMMAND", "import sys; sys.stdin.buffer.read(4); sys.exit(3)")
    assert list(run_tasks(tasks, here, 2)) == [here(task) for task in tasks]


def test_rubbish_from_a_worker_is_not_believed(tasks, monkeypatch):
    """An answer that is no report counts as none."""
    monkeypatch.setattr(pool, "_COMMAND", "import sys; sys.stdout.buffer.write(b'\\0\\0\\0\\3abc' * 100)")
    assert list(run_tasks(tasks, here, 2)) == [here(task) for task in tasks]


@pytest.mark.parametrize("executable", ["", "/nowhere/python"])
def test_without_an_interpreter_all_runs_here(tasks, monkeypatch, executable):
    """An embedded interpreter cannot be started again; that costs time only."""
    monkeypatch.setattr(sys, "executable", executable)
    assert list(run_tasks(tasks, here, 2)) == [here(task) for task in tasks]


def test_stopping_early_leaves_no_process(tasks):
    """Whoever stops asking gets the workers ended."""
    reports = run_tasks(tasks, here, 2)
    next(reports)
    reports.close()
    assert list(run_tasks(tasks[:1], here, 2)) == [here(tasks[0])]


def test_file_that_cannot_be_read_is_said(tasks):
    """A missing file is an error in the report, not an empty range."""
    lost = Task(0, "/nowhere/at/all", "2026-11-20", 0, 10, 10, None, decode=True)
    assert [here(lost).error != "", here(lost).sound] == [True, False]


def test_verdict_is_the_same_with_workers(tmp_path, monkeypatch):
    """A log scanned by workers gets the same verdict, good or damaged."""
    monkeypatch.setattr("klingai_audit.trust.reading.PARALLEL_FROM", 0)
    monkeypatch.setattr("klingai_audit.trust.reading.CHUNK_BYTES", 50_000)
    folder = SMITH.write(tmp_path / "audit")
    store = DirectoryStore(folder, tmp_path / "mark")
    options = {"key": SMITH.log_key.vkey, "now": SMITH.now, "patience": 0}
    good = [verify(store, processes=n, **options) for n in (1, 2)]
    day = folder / "audit-2026-11-20.jsonl"
    day.write_bytes(day.read_bytes().replace(b'"seq":300', b'"seq":301'))
    bad = [verify(store, processes=n, **options) for n in (1, 2)]
    assert (good[0], good[0].exit_code, bad[0], bad[0].exit_code) == (good[1], 0, bad[1], 4)
