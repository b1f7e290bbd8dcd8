"""What a log's writers remember outside the log."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from klingai_audit.ledger.state import StateFolder
from tests.support.faulty import QuickOps


def test_heads_of_several_writers_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    """Writers of a log on a server share no lock on this machine: what is remembered is whole at every moment."""
    notes = [bytes([number]) * 4_000 for number in b"abcd"]
    state = StateFolder(tmp_path, QuickOps())
    state.create()
    state.write_head(notes[0])
    wrong: list[object] = []
    done = threading.Event()

    def write(note: bytes) -> None:
        own = StateFolder(tmp_path, QuickOps())
        try:
            for _ in range(30):
                own.write_head(note, alone=False)
        except Exception as exc:  # noqa: BLE001  whatever it is, the test has failed
            wrong.append(exc)

    def read() -> None:
        while not done.is_set():
            if (found := state.read_head()) not in notes:
                wrong.append(found)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(note,)) for note in notes]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert [] == wrong
    assert ["head"] == [path.name for path in (tmp_path / "heads").iterdir()]


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    """A head that was never put in place is removed when it is old; a new one may be about to be put there.

    So may the one that all writers under the log's lock have, whatever clock the disk goes by.
    """
    state = StateFolder(tmp_path, QuickOps())
    state.create()
    old, new = tmp_path / "heads" / "head.0123456789abcdef", tmp_path / "heads" / "head.fedcba9876543210"
    older, shared = old.with_name(f"{old.name}.tmp"), old.with_name("head.tmp")
    for path in (old, older, new, shared):
        path.write_bytes(b"a note")
    for path in (old, older, shared):
        os.utime(path, (0, 0))
    state.create()
    assert (False, False, True, True) == tuple(path.exists() for path in (old, older, new, shared))
