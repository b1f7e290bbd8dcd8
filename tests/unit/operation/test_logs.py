"""Diagnostics: their form, their levels, and what never gets into them."""

from __future__ import annotations

import gc
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from klingai_audit.diagnostics import tell
from klingai_audit.errors import UsageError
from klingai_audit.operation.logs import in_json, set_up, tear_down

SECRET = "user@example.com wants a lake"


class Stream:
    """What was written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str]) -> Iterator[Stream]:
    """Let a test set up diagnostics; what it found is put back. What other tests dropped ends before or after."""
    collecting = gc.isenabled()
    gc.disable()
    yield Stream(capsys)
    tear_down()
    if collecting:
        gc.enable()


def lines(stream: Stream) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def broken() -> ValueError:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return error


def test_a_line_of_json(stream: Stream) -> None:
    """Time in UTC, level, name, words, then the facts."""
    assert "json" == set_up("json", "info")
    tell(logging.INFO, "batch_committed", "%d entries are durable", 5, entries=5, kind="quick", good=True)
    [line] = lines(stream)
    assert line.pop("time").endswith("Z")
    assert line.pop("pid") > 0
    assert {
        "level": "info", "event": "batch_committed", "message": "5 entries are durable", "entries": 5,
        "kind": "quick", "good": True,
    } == line  # fmt: skip


def test_a_line_of_text(stream: Stream) -> None:
    """The same for people, in one line whatever the words hold."""
    assert "text" == set_up("text", "warning")
    tell(logging.WARNING, "not_committed", "a batch\nfailed", kind="HeadConflict")
    [line] = stream.getvalue().splitlines()
    assert line.endswith("Z WARNING not_committed: a batch failed [kind=HeadConflict]")


def test_of_an_error_only_class_and_place_are_told(stream: Stream) -> None:
    """Its text could hold anything."""
    set_up("json")
    tell(logging.ERROR, "observer_failed", "a view failed", error=broken())
    [line] = lines(stream)
    assert ("ValueError", True) == (line["error"], line["where"].startswith("test_logs.py:"))
    assert line["message"].startswith("a view failed (ValueError in test_logs.py:")
    assert SECRET not in stream.getvalue()


def test_facts_are_plain(stream: Stream) -> None:
    """A text that is no plain name is not told, and no fact takes the place of what every line has."""
    set_up("json")
    tell(logging.WARNING, "odd", "words", kind=SECRET, prompt="a lake", time="never", event_id="x_1")
    [line] = lines(stream)
    assert ("(text)", "(text)", "x_1") == (line["kind"], line["prompt"], line["event_id"])
    assert "never" != line["time"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_of_others_no_word_is_told(stream: Stream, form: str) -> None:
    """A library's own words could be a URL, a header, a body: its name, level and place are what is told."""
    set_up(form)
    logging.getLogger("httpcore.connection").warning("%s", SECRET)
    logging.getLogger("klingai_audit").warning(SECRET)  # not through tell()
    try:
        raise broken()
    except ValueError:
        logging.getLogger("anything").exception(SECRET)
    assert 3 == len(stream.getvalue().splitlines())
    assert "httpcore.connection" in stream.getvalue()
    assert "ValueError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_a_library_that_was_told_to_be_quiet_is_quiet(stream: Stream) -> None:
    """As with logging's last resort."""
    quiet = logging.getLogger("quiet.library")
    handler = logging.NullHandler()
    quiet.addHandler(handler)
    try:
        set_up("json")
        logging.getLogger("quiet.library.part").error("x")
        assert "" == stream.getvalue()
    finally:
        quiet.removeHandler(handler)


def test_failed_threads_warnings_and_the_end_of_the_process(stream: Stream) -> None:
    """With JSON nothing else is printed: no traceback of a thread, no warning, no last words."""
    set_up("json")
    thread = threading.Thread(target=lambda: (_ for _ in ()).throw(broken()))
    thread.start()
    thread.join()
    warnings.showwarning(UserWarning(SECRET), UserWarning, "/a/b.py", 3)
    sys.excepthook(ValueError, broken(), None)
    assert ["thread_failed", "python_warning", "process_failed"] == [line["event"] for line in lines(stream)]
    assert SECRET not in stream.getvalue()


def test_levels(stream: Stream) -> None:
    """Warnings unless more is asked for; the environment decides where no argument does."""
    set_up("json", environment={})
    tell(logging.INFO, "unheard", "x")
    set_up(environment={"KLINGAI_AUDIT_LOG_FORMAT": "json", "KLINGAI_AUDIT_LOG_LEVEL": "debug"})
    tell(logging.DEBUG, "heard", "x")
    set_up("json", "error", environment={"KLINGAI_AUDIT_LOG_LEVEL": "debug"})
    tell(logging.WARNING, "unheard", "x")
    assert ["heard"] == [line["event"] for line in lines(stream)]


@pytest.mark.parametrize("wrong", [("yaml", None), (None, "loud"), ("JSON", None)])
def test_a_form_or_level_that_there_is_not(stream: Stream, wrong: tuple[str | None, str | None]) -> None:
    """What cannot be understood is refused, and nothing is changed."""
    with pytest.raises(UsageError):
        set_up(*wrong, environment={})
    assert not in_json()


def test_what_was_there_is_put_back(stream: Stream) -> None:
    """A program that runs commands inside keeps its own logging."""
    before = (threading.excepthook, warnings.showwarning, sys.excepthook, list(logging.getLogger().handlers))
    set_up("json", "debug")
    assert in_json()
    tear_down()
    assert before == (threading.excepthook, warnings.showwarning, sys.excepthook, list(logging.getLogger().handlers))
    assert not in_json()
