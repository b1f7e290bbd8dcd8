"""The pytest plugin: a test that asks for `audited_kling` fails if a request to Kling leaves unaudited.

pytest loads it by itself where the package is installed; nothing else is imported until a test asks.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from klingai_audit.testing.events import CapturedEvents
    from klingai_audit.testing.guard import Unaudited

__all__ = ["audited_kling", "pytest_pyfunc_call"]

_STOPPED: pytest.StashKey[Unaudited] = pytest.StashKey()
_TOLD: pytest.StashKey[int] = pytest.StashKey()


@pytest.fixture
def audited_kling(request: pytest.FixtureRequest) -> Iterator[CapturedEvents]:
    """Give a log in memory (`.audit`) and what it received; the test fails if a request to Kling leaves unaudited."""
    from klingai_audit.testing.events import capture_events
    from klingai_audit.testing.guard import refuse_unaudited

    with capture_events() as captured, refuse_unaudited() as stopped:
        request.node.stash[_STOPPED] = stopped
        yield captured
        # What the test itself did is told by then; this is what its teardown did.
        stopped.check(since=request.node.stash.get(_TOLD, 0))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """After the test itself: fail it for requests whose error it, or the code under test, swallowed."""
    try:
        result = yield
        stopped = pyfuncitem.stash.get(_STOPPED, None)
        if stopped is not None:
            stopped.check()
        return result
    finally:
        stopped = pyfuncitem.stash.get(_STOPPED, None)
        pyfuncitem.stash[_TOLD] = 0 if stopped is None else len(stopped.requests)
