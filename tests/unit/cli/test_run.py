"""Tests of the last stop: errors become one message and an exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from klingai_audit.cli import run as module
from klingai_audit.cli.session import write_json
from klingai_audit.errors import AuditUnavailable, LogDamaged, NoTrustedKey, UsageError


@pytest.fixture
def failing(monkeypatch):
    """Make every command raise the given exception."""

    def arm(error):
        class App:
            def meta(self, *args, **more):
                raise error

        monkeypatch.setattr(module, "build_app", App)

    return arm


@pytest.mark.parametrize(
    "error,code,kind",
    [
        (UsageError("m", do="d"), 2, "UsageError"),
        (NoTrustedKey("m", do="d"), 2, "NoTrustedKey"),
        (AuditUnavailable("m", do="d"), 3, "AuditUnavailable"),
        (LogDamaged("m", kind_of_damage="rollback", do="d"), 4, "LogDamaged"),
        (FileNotFoundError(2, "No such file", "x"), 3, "StorageError"),
        (RuntimeError("secret"), 1, "InternalError"),
        (UnicodeEncodeError("utf-8", "secret\udcff", 6, 7, "no"), 2, "UsageError"),
        (RecursionError("secret"), 2, "Malformed"),
    ],
)
def test_each_error_has_its_code_and_shape(failing, capfdbinary, error, code, kind):
    """The exit code of the error's class, one JSON object on stderr, nothing on stdout, and no text of strangers."""
    failing(error)
    assert code == module.run(["query", "--json"])
    out, err = capfdbinary.readouterr()
    told = json.loads(err)
    assert (b"", ["error"], ["kind", "message", "do"], kind) == (
        out,
        list(told),
        list(told["error"]),
        told["error"]["kind"],
    )
    assert b"secret" not in err


def test_people_get_one_line_and_advice(failing, capfdbinary):
    """No traceback; control characters of a message are inert."""
    failing(UsageError("a\x1bb", do="c"))
    assert 2 == module.run(["query"])
    assert (b"", b"klingai-audit: a\\x1bb\n  c\n") == capfdbinary.readouterr()


def test_an_interrupt_is_quiet(failing, capfdbinary):
    """Ctrl-C ends with 130 and without a word."""
    failing(KeyboardInterrupt())
    assert 130 == module.run(["tail", "-f"])
    assert (b"", b"") == capfdbinary.readouterr()


def test_an_internal_error_can_be_traced(failing, capfdbinary, monkeypatch):
    """The traceback comes only when it is asked for."""
    failing(RuntimeError("what happened"))
    monkeypatch.setenv(module.TRACEBACK_ENV, "1")
    assert 1 == module.run(["query"])
    assert b"RuntimeError: what happened" in capfdbinary.readouterr().err


@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&-", ">/dev/full", "1</dev/null"])
def test_an_output_that_takes_nothing_is_no_traceback(redirection, tmp_path):
    """Closed, full and read-only standard output end in an exit code and at most one message."""
    command = f'"{sys.executable}" -m klingai_audit.cli query --log "{tmp_path}/none" --json {redirection}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert done.returncode in (2, 3)
    help_text = f'"{sys.executable}" -m klingai_audit.cli --version {redirection}'
    done = subprocess.run(["sh", "-c", help_text], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr


def test_text_that_is_not_utf_8_is_printed_escaped(capfdbinary):
    """File names and arguments in other encodings appear as visible escapes in JSON."""
    write_json(sys.stdout, {"a\udcff": ["b\udcfe", ("c", 1)]})
    assert {"a\\udcff": ["b\\udcfe", ["c", 1]]} == json.loads(capfdbinary.readouterr().out)
