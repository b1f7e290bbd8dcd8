"""Tests of the story of one generation."""

from __future__ import annotations

import datetime as dt

import pytest

from klingai_audit.views.entry import EntryView
from klingai_audit.views.story import Story, find_shown, tell_story
from tests.unit.views.lines import NOW, PEOPLE, event_id, line, pseudonym

TASK, OTHER = "831234567890123456", "831999999999999999"
INTENT = event_id(1)
CHARGE = [{"charge_type": "unit", "amount": "2.5", "package_type": "video"}]


def after(seconds: float) -> dt.datetime:
    return NOW + dt.timedelta(seconds=seconds)


def generation(correlation: str = INTENT) -> list[bytes]:
    """One life of a task, among what does not belong to it."""
    end = event_id(8, version=8)
    steps = [
        {"event_type": "log_opened", "actor_id": "klingai-audit"},
        {"event_id": INTENT, "metadata": {"phase": "intent"}, "correlation_id": correlation},
        {"event_type": "api_key_used", "resource_id": "00ff", "correlation_id": correlation, "when": after(1)},
        {"event_type": "video_generation_started", "resource_id": TASK, "correlation_id": correlation},
        {"event_type": "video_generation_started", "resource_id": OTHER, "correlation_id": "shared"},
        {"event_type": "task_status_changed", "resource_id": TASK, "correlation_id": correlation, "when": after(3)},
        {
            "event_type": "video_generation_completed", "event_id": end, "resource_id": TASK, "when": after(10),
            "correlation_id": correlation, "metadata": {"charge": CHARGE, "external_task_id": INTENT},
        },
        {"event_type": "video_generation_completed", "event_id": end, "resource_id": TASK, "correlation_id": "late"},
        {"event_type": "video_downloaded", "resource_id": TASK, "correlation_id": correlation, "when": after(12)},
    ]  # fmt: skip
    return [line(seq, **step) for seq, step in enumerate(steps)]


def seqs(story: Story | None) -> list[int]:
    return [] if story is None else [step.entry.seq for step in story.steps]


def test_a_whole_life_in_order_with_durations_and_charge():
    """Intent, key, start, change, one end and download, with seconds between them and the charge of the end."""
    lines = generation()
    story = tell_story(lambda: lines, TASK, PEOPLE)
    assert story is not None
    assert [1, 2, 3, 5, 6, 8] == seqs(story)
    assert [0, 1, 0, 3, 10, 12] == [step.since_start for step in story.steps]
    assert [0, 1, -1, 3, 7, 2] == [step.since_previous for step in story.steps]
    assert (TASK, 10, {"video units": "2.5"}) == (story.task, story.seconds, story.charges)
    assert 6 == (story.end and story.end.seq)


def test_the_intents_id_tells_the_same_story():
    """The correlation id, which is the intent's event id, leads to the same task."""
    lines = generation()
    assert seqs(tell_story(lambda: lines, TASK)) == seqs(tell_story(lambda: lines, INTENT))


def test_another_task_under_the_same_correlation_stays_out():
    """Two tasks that share a correlation id keep their own stories; what names neither belongs to both."""
    lines = generation("shared")
    assert ([1, 2, 3, 5, 6, 8], [2, 4]) == (
        seqs(tell_story(lambda: lines, TASK)),
        seqs(tell_story(lambda: lines, OTHER)),
    )


def test_a_task_without_end_is_open():
    """As long as no end is in the log, there is neither an end nor a duration."""
    lines = generation()[:6]
    story = tell_story(lambda: lines, TASK)
    assert story is not None
    assert (None, None, {}) == (story.end, story.seconds, story.charges)


@pytest.mark.parametrize("what", [TASK, "no-such-task", "", "9"])
def test_an_unknown_name_has_no_story(what):
    """What nothing in the log names is nothing, not an empty story."""
    lines = [line(0)]
    assert find_shown(lambda: lines, lambda seq: lines[seq], 1, what) is None


def test_show_takes_seq_event_id_and_task():
    """A number within the log is a seq, a known event id that entry, anything else a task."""
    lines = generation()

    def show(what: str) -> EntryView | Story | None:
        return find_shown(lambda: lines, lambda seq: lines[seq], len(lines), what, PEOPLE)

    by_seq, by_id, by_task = show("8"), show(INTENT.upper()), show(TASK)
    assert isinstance(by_seq, EntryView)
    assert isinstance(by_id, EntryView)
    assert isinstance(by_task, Story)
    assert (8, 1, 6) == (by_seq.seq, by_id.seq, len(by_task.steps))
    assert (pseudonym(1), "us***@example.com") == (by_seq.actor_id, by_seq.actor())
