"""One command line from arguments to exit code; the only place that turns errors into messages.

Exit codes: 0 done, 1 failed, 2 the input is off, 3 disk, database or network, 4 evidence does not hold,
130 interrupted, 141 the reader of the output went away, 143 terminated. What a command had open is closed first.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cyclopts.exceptions import CycloptsError

from klingai_audit.cli.app import build_app
from klingai_audit.cli.session import write_json
from klingai_audit.cli.signals import Terminated, terminable
from klingai_audit.diagnostics import tell
from klingai_audit.errors import KlingAuditError, StorageError, UsageError
from klingai_audit.operation.logs import in_json, tear_down
from klingai_audit.views.inert import inert

PROGRAM: Final = "klingai-audit"
INTERRUPTED: Final = 130
TERMINATED: Final = 143
BROKEN_PIPE: Final = 141
TRACEBACK_ENV: Final = "KLINGAI_AUDIT_TRACEBACK"
"""Set to any value to see the traceback of an internal error."""


def run(argv: Sequence[str], *, last: bool = False) -> int:
    """Run one command line and return its exit code; nothing is raised but SystemExit from below.

    With `last` the process ends after it: diagnostics go on where they went.
    """
    try:
        return _run(argv)
    finally:
        if not last:
            tear_down()


def _run(argv: Sequence[str]) -> int:
    as_json = "--json" in argv
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            code = build_app().meta(list(argv), exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except KlingAuditError as exc:
        return _report(exc.kind, exc.message, exc.do, exc.exit_code, as_json)
    except CycloptsError as exc:
        return _report_usage(exc, as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except UnicodeEncodeError:
        message = "A name in the arguments or among the files is not UTF-8, and this command has to write it down."
        return _report("UsageError", message, "Use names in UTF-8.", UsageError.exit_code, as_json)
    except RecursionError:
        return _report(
            "Malformed", "Something in the log or in the arguments is nested too deep to be read.", "", 2, as_json
        )
    except OSError as exc:
        place = f": {exc.filename}" if exc.filename else ""
        message = f"{exc.strerror or type(exc).__name__}{place}."
        return _report("StorageError", message, "", StorageError.exit_code, as_json)
    except Exception as exc:  # noqa: BLE001  (the last stop: nothing but a message leaves this program)
        return _report_internal(exc, as_json)
    return code if isinstance(code, int) else 0


def _report(kind: str, message: str, do: str, code: int, as_json: bool) -> int:
    with contextlib.suppress(OSError):
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        message, do = inert(message), inert(do)
        if as_json:
            write_json(sys.stderr, {"error": {"kind": kind, "message": message, "do": do}})
        elif in_json():
            tell(logging.ERROR, "command_failed", "%s %s", message, do, kind=kind, exit=code)
        else:
            sys.stderr.write(f"{PROGRAM}: {message}\n" + (f"  {do}\n" if do else ""))
        sys.stderr.flush()
    _silence_stdout(only_if_broken=True)
    return code


def _report_usage(exc: CycloptsError, as_json: bool) -> int:
    exc.verbose = False
    message = " ".join(str(exc).split())
    command = " ".join([PROGRAM, *(exc.command_chain or ())])
    return _report(UsageError.__name__, message, f"Run: {command} --help", UsageError.exit_code, as_json)


def _report_internal(exc: Exception, as_json: bool) -> int:
    """Say that this is our fault, and where, without the exception's text: it could hold what must not be printed."""
    if os.environ.get(TRACEBACK_ENV):
        traceback.print_exception(exc)
    last = traceback.extract_tb(exc.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    message = f"Internal error: {type(exc).__name__} in {where}."
    do = f"This is a fault in klingai-audit. Run again with {TRACEBACK_ENV}=1 and report what it prints."
    return _report("InternalError", message, do, KlingAuditError.exit_code, as_json)


def _fill_closed_streams() -> None:
    """Give closed standard streams the null device: nothing that is opened later may take their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_RDWR)
                if null != number:
                    os.dup2(null, number)
                    os.close(null)
                setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


def _silence_stdout(*, only_if_broken: bool = False) -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot complain about a closed pipe."""
    if only_if_broken:
        try:
            sys.stdout.flush()
        except OSError:
            pass
        else:
            return
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null: Any = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
