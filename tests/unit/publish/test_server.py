"""How applications are served: not by what else is installed, and not after the end."""

from __future__ import annotations

import signal
import sys
from typing import Any

import pytest

from klingai_audit.operation.listening import bind
from klingai_audit.publish.server import run_app


async def nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    raise AssertionError("nobody asks")


def test_after_a_signal_nothing_is_served() -> None:
    """One that came while everything was being opened ends it: nobody sends another."""
    listening = bind("127.0.0.1:0")
    run_app(nothing, listening, ended=[signal.SIGTERM])
    assert -1 == listening.fileno()


def test_what_else_is_installed_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the parsers, loops and WebSockets that uvicorn would choose among, those are taken that tests know."""
    for name in ("uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto", "uvicorn.loops.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    run_app(nothing, bind("127.0.0.1:0"), ended=[signal.SIGTERM])
