"""How signals end commands."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from klingai_audit.cli.signals import Terminated, exit_code, pause_until, terminable, until_signalled


def test_sigterm_leaves_a_block_as_an_exception() -> None:
    """So that what is open is closed; a second one would end the process, and afterwards all is as before."""
    assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)
    assert signal.SIG_DFL == signal.getsignal(signal.SIGTERM)


def test_what_others_decided_stays() -> None:
    """A program that handles SIGTERM, or runs a command in another thread, keeps its own ways."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert [signal.SIGTERM] == seen
    finally:
        signal.signal(signal.SIGTERM, before)
    handlers: list[object] = []

    def elsewhere() -> None:
        with terminable():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [signal.SIG_DFL] == handlers


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 4)])
def test_a_signal_ends_a_pause(number: int, code: int) -> None:
    """The block learns of it and ends in its own time; after Ctrl-C the exit code says so."""
    begun = time.monotonic()
    with until_signalled() as ended, terminable():
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        pause_until(lambda: bool(ended), 30)
        assert [number] == ended
    assert time.monotonic() - begun < 20
    assert code == exit_code(ended, 4)
    assert 4 == exit_code([], 4)
