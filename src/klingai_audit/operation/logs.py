"""Where a command's own diagnostics go, and in which form: lines of text, or one JSON object a line.

Every line is made from `diagnostics.tell`. What other libraries say could hold anything (addresses, headers, bodies):
of them only the logger, the level and the place are told.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TextIO

from klingai_audit.diagnostics import LOGGER_NAME, place_of, tell
from klingai_audit.errors import UsageError

__all__ = ["FORMAT_ENV", "LEVEL_ENV", "JsonFormatter", "TextFormatter", "in_json", "set_up", "tear_down"]

FORMAT_ENV: Final = "KLINGAI_AUDIT_LOG_FORMAT"
LEVEL_ENV: Final = "KLINGAI_AUDIT_LOG_LEVEL"
_LEVELS: Final = ("debug", "info", "warning", "error")

_Form = Literal["text", "json"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ms), level, event, message, pid, then the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without LF."""
        return json.dumps(_members(record), ensure_ascii=False, separators=(",", ":"), default=str)


class TextFormatter(logging.Formatter):
    """One line for people: time, level, event, words, and what the words do not say of the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without LF."""
        members = _members(record)
        time, level, event = (members.pop(name) for name in ("time", "level", "event"))
        message = members.pop("message", "")
        members.pop("pid")
        facts = " ".join(f"{name}={value}" for name, value in members.items())
        line = f"{time} {level.upper()} {event}: {message}"
        return (line + (f" [{facts}]" if facts else "")).replace("\r", " ").replace("\n", " ")


def _members(record: logging.LogRecord) -> dict[str, Any]:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
    members: dict[str, Any] = {"time": moment.replace("+00:00", "Z"), "level": record.levelname.lower()}
    event = getattr(record, "event", None)
    if isinstance(event, str) and record.name == LOGGER_NAME:
        members |= {"event": event, "message": record.getMessage(), "pid": record.process}
        facts = getattr(record, "facts", {})
        return {**facts, **members} if not isinstance(facts, Mapping) else {**members, **facts}
    members |= {"event": "foreign", "message": "another library said something", "pid": record.process}
    members |= {"logger": record.name, "where": f"{Path(record.pathname).name}:{record.lineno}"}
    error = record.exc_info[1] if record.exc_info else None
    return members if error is None else {**members, "error": type(error).__name__, "raised": place_of(error)}


def _is_heard(record: logging.LogRecord) -> bool:
    """Tell whether logging's last resort would print a record: not if its library's logger was told to be quiet."""
    if record.name == LOGGER_NAME:
        return True
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        if any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return False
        logger = logger.parent
    return True


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is at the moment; a reader that went away is no error."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.addFilter(_is_heard)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # of logging
        """Say nothing: there is nobody to say it to."""


_HANDLER: Final = _StandardError()
_BEFORE: Final[list[tuple[Any, ...]]] = []


def set_up(form: str | None = None, level: str | None = None, environment: Mapping[str, str] = os.environ) -> _Form:
    """Send this process's diagnostics to standard error; returns the form in use.

    Without arguments the variables `KLINGAI_AUDIT_LOG_FORMAT` (text or json; default text) and
    `KLINGAI_AUDIT_LOG_LEVEL` (debug, info, warning or error; default warning) decide. Raises: UsageError for others.
    """
    form = form or environment.get(FORMAT_ENV) or "text"
    level = level or environment.get(LEVEL_ENV) or "warning"
    if form not in ("text", "json"):
        raise UsageError("The format of diagnostics is text or json.", do=f"Set --log-format or {FORMAT_ENV} to one.")
    if level not in _LEVELS:
        raise UsageError(
            "The level of diagnostics is debug, info, warning or error.", do=f"Set --log-level or {LEVEL_ENV} to one."
        )
    tear_down()
    as_json = form == "json"
    _HANDLER.setFormatter(JsonFormatter() if as_json else TextFormatter())
    ours, root = logging.getLogger(LOGGER_NAME), logging.getLogger()
    before = ours.level, threading.excepthook, warnings.showwarning, sys.excepthook
    _BEFORE.append(before)
    root.addHandler(_HANDLER)
    ours.setLevel(level.upper())
    threading.excepthook = _thread_failed
    if as_json:  # nothing else may write there what is no JSON
        warnings.showwarning = _warned  # type: ignore[assignment]
        sys.excepthook = _failed
    return "json" if as_json else "text"


def tear_down() -> None:
    """Put back what `set_up` found; nothing if it was not called."""
    while _BEFORE:
        level, threading.excepthook, warnings.showwarning, sys.excepthook = _BEFORE.pop()
        logging.getLogger(LOGGER_NAME).setLevel(level)
        logging.getLogger().removeHandler(_HANDLER)


def in_json() -> bool:
    """Tell whether this process's diagnostics are JSON lines now."""
    return bool(_BEFORE) and isinstance(_HANDLER.formatter, JsonFormatter)


def _warned(_message: object, category: type[Warning], filename: str, lineno: int, *_more: object) -> None:
    where = f"{Path(filename).name}:{lineno}"
    tell(logging.WARNING, "python_warning", "Python warns: %s", category.__name__, kind=category.__name__, where=where)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None:
        tell(logging.ERROR, "thread_failed", "a thread ended", error=failure.exc_value)


def _failed(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    tell(logging.ERROR, "process_failed", "the process ended", error=error)
