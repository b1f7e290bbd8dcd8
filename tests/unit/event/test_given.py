"""Events that a caller may not hand in: they have effects that only the act itself may have."""

from __future__ import annotations

import pytest

from klingai_audit.errors import InvalidEvent
from klingai_audit.event.given import ACTS, refuse_given
from klingai_audit.event.record import end_event_id, new_event_id
from klingai_audit.event.types import EVENT_TYPES, EventType


@pytest.mark.parametrize("name", sorted(ACTS))
def test_acts_are_not_given(name):
    """As a name and as a member of the registry; the error names the command."""
    for given in (name, EventType(name)):
        with pytest.raises(InvalidEvent, match=f"/event_type: '{name}' is written by the act itself") as caught:
            refuse_given(given, None)
        assert f"Use: klingai-audit {ACTS[name]}" == caught.value.do


def test_everything_else_is():
    """All other types pass here, with any id but that of an end."""
    for name in [*(EVENT_TYPES.keys() - ACTS.keys()), "x_own"]:
        refuse_given(name, new_event_id())
    with pytest.raises(InvalidEvent):
        refuse_given("x_own", end_event_id("log.example.com", "7", "succeeded"))
