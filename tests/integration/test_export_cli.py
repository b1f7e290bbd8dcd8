"""`export` through the command line: files, cursors, following, what is recorded, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from klingai_audit import acting
from klingai_audit.cli.run import run
from klingai_audit.config import Places, open_reader
from klingai_audit.errors import UsageError
from klingai_audit.exports import FORMATS, Course, CursorFile, export
from klingai_audit.log import AuditLog
from klingai_audit.tlog.checkpoint import parse_checkpoint
from klingai_audit.tlog.note import parse_note
from tests.support.exported import HOSTILE
from tests.support.receivers import SyslogReceiver, free_port, wait_until

COMMAND = (sys.executable, "-m", "klingai_audit.cli")


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: bytes
    err: bytes


ORIGIN = "log.example.com/exported"
"""Begins the name of the log, which every process that runs these tests makes anew."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed log with its keys, hostile values in it."""
    folder = tmp_path_factory.mktemp("made")
    with AuditLog.open(folder / "audit", origin=f"{ORIGIN}-{secrets.token_hex(8)}") as audit:
        for number, value in enumerate(HOSTILE):
            audit.log("x_note", "user@example.com", team="studio-a", action=value, metadata={"n": number, "v": value})
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(made, tmp_path / "place")
    return tmp_path / "place"


@pytest.fixture
def cli(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Answer]:
    """Run `export` on the log."""

    def call(*argv: str, command: str = "export") -> Answer:
        code = run([command, *argv, "--log", str(place / "audit")])
        out, err = capfdbinary.readouterr()
        return Answer(code, out, err)

    return call


def stored(place: Path) -> list[bytes]:
    return [line for day in sorted(place.glob("audit/*.jsonl")) for line in day.read_bytes().splitlines()]


def seqs(lines: bytes) -> list[int]:
    return [json.loads(line)["seq"] for line in lines.splitlines()]


# --- once ----------------------------------------------------------------------------------------------


def test_json_lines_are_the_stored_bytes(cli: Callable[..., Answer], place: Path) -> None:
    """On standard output and in a file; the checkpoint beside the file covers them."""
    to_stdout, to_file = cli("--format", "jsonl"), cli("--format", "jsonl", "-o", str(place / "out.jsonl"), "--json")
    assert (0, stored(place)) == (to_stdout.code, to_stdout.out.splitlines())
    assert stored(place) == (place / "out.jsonl").read_bytes().splitlines()
    checkpoint = parse_checkpoint(parse_note((place / "out.jsonl.checkpoint").read_bytes()).text)
    size = len(stored(place))
    told = json.loads(to_file.out)
    assert {
        "format": "jsonl",
        "to": str(place / "out.jsonl"),
        "begin": 0,
        "end": size,
        "entries": size,
        "again": 0,
        "tree_size": size,
        "root": told["root"],
        "unsigned_tail": 0,
        "recorded": False,
    } == told
    assert checkpoint.size == size


@pytest.mark.parametrize("name", [name for name, told in FORMATS.items() if told.encode is not None])
def test_every_line_format(cli: Callable[..., Answer], place: Path, name: str) -> None:
    """One line for each entry, which names its leaf hash (or is the entry); the same on stdout and in a file."""
    answer = cli("--format", name)
    assert 0 == answer.code
    head, end = FORMATS[name].head(), FORMATS[name].end
    assert answer.out.startswith(head)
    lines = answer.out.removeprefix(head).split(end)
    assert b"" == lines.pop()
    for line, entry in zip(lines, stored(place), strict=True):
        assert line == entry or hashlib.sha256(b"\0" + entry).hexdigest().encode() in line
    assert 0 == cli("--format", name, "-o", str(place / "out")).code
    assert answer.out == (place / "out").read_bytes()
    if name in ("csv", "cef", "syslog"):
        assert not set(answer.out) & {*range(9), 11, 12, *range(14, 32), 127}


def test_csv_opens_as_a_table(cli: Callable[..., Answer], place: Path) -> None:
    """The standard reader sees one row for each entry, and no cell that a spreadsheet would run."""
    rows = list(csv.DictReader(io.StringIO(cli("--format", "csv").out.decode(), newline="")))
    assert [str(seq) for seq in range(len(stored(place)))] == [row["seq"] for row in rows]
    assert not [cell for row in rows for cell in row.values() if cell.lstrip()[:1] in {*"=+-@"}]


def test_parquet_is_read_by_duckdb(cli: Callable[..., Answer], place: Path) -> None:
    """All entries, in one file, whose text is the stored one."""
    import duckdb

    assert 0 == cli("--format", "parquet", "-o", str(place / "out.parquet")).code
    with duckdb.connect(":memory:") as database:
        rows = database.execute(
            "SELECT entry FROM read_parquet(?) ORDER BY seq", [str(place / "out.parquet")]
        ).fetchall()
    assert stored(place) == [row[0].encode() for row in rows]


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["--from-seq", "5"], range(5, 100)),
        (["--from-seq", "0", "--since", "-30d"], range(100)),
        (["--until", "-1h"], range(0)),
        (["--since", "2030-01-01"], range(0)),
        (["--since", "-1d", "--until", "now"], range(100)),
    ],
)
def test_ranges(cli: Callable[..., Answer], place: Path, argv: list[str], expected: range) -> None:
    """By entry and by time; an empty answer is exit 0."""
    answer = cli("--format", "jsonl", *argv)
    assert 0 == answer.code
    assert list(expected)[: len(stored(place)) - (expected.start)] == seqs(answer.out)


def test_unsigned_tail_is_told_and_stays(cli: Callable[..., Answer], place: Path) -> None:
    """Lines that no checkpoint covers do not leave."""
    (day,) = place.glob("audit/*.jsonl")
    size = len(stored(place))
    with day.open("ab") as file:
        file.write(b'{"forged":1}\n')
    answer = cli("--format", "jsonl", "--json")
    assert size == len(answer.out.splitlines())
    assert 1 == json.loads(answer.err)["unsigned_tail"]
    assert b"Not exported: 1 after the last checkpoint." in cli("--format", "jsonl").err


def test_changed_log_is_exit_4(cli: Callable[..., Answer], place: Path) -> None:
    """An export is no way to launder an entry."""
    (day,) = place.glob("audit/*.jsonl")
    day.write_bytes(day.read_bytes().replace(b'"n":3,', b'"n":4,'))
    answer = cli("--format", "ocsf", "-o", str(place / "out"))
    assert 4 == answer.code
    assert b"is not the one that was signed" in answer.err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    "argv,code,words",
    [
        (["--format", "ocfs"], 2, "Did you mean ocsf?"),
        (["--format", "?"], 2, "Formats: ocsf, cef"),
        ([], 2, "--format"),
        (["--format", "ocsf", "--to", "tls://localhost"], 2, "written to files"),
        (["--format", "otlp"], 2, "goes to a receiver"),
        (["--format", "otlp", "-o", "x"], 2, "goes to a receiver"),
        (["--format", "parquet"], 2, "-o FILE"),
        (["--format", "parquet", "-o", "x", "--follow"], 2, "--follow"),
        (["--format", "parquet", "-o", "x", "--cursor", "c"], 2, "--cursor"),
        (["--format", "syslog", "--to", "nonsense"], 2, "tls://host:6514"),
        (["--format", "syslog", "--to", "udp://localhost:514"], 2, "tls://host:6514"),
        (["--format", "syslog", "--to", "tls://"], 2, "tls://host:6514"),
        (["--format", "syslog", "--to", "tls://localhost:99999"], 2, "tls://host:6514"),
        (["--format", "syslog", "--to", "tls://[::1"], 2, "tls://host:6514"),
        (["--format", "syslog", "--to", "tls://user:secret@localhost"], 2, "nothing else"),
        (["--format", "syslog", "--to", "tls://localhost/path"], 2, "nothing else"),
        (["--format", "otlp", "--to", "https://localhost/?key=secret"], 2, "OTEL_EXPORTER_OTLP_HEADERS"),
        (["--format", "syslog", "--to", "tcp://192.0.2.1:514"], 2, "--plain"),
        (["--format", "otlp", "--to", "http://example.com:4318"], 2, "--plain"),
        (["--format", "syslog", "--to", "tls://localhost:1", "-o", "x"], 2, "not to both"),
        (["--format", "jsonl", "--since", "yesteryear"], 2, "not a time"),
        (["--format", "jsonl", "--from-seq", "1000"], 2, "no entry 1000"),
        (["--format", "jsonl", "--from-seq", "-1"], 2, "no entry -1"),
        (["--format", "jsonl", "--follow", "--until", "now"], 2, "--until"),
        (["--format", "jsonl", "--cursor", "../x"], 2, "not a name"),
        (["--format", "tiles", "-o", "/no/such", "--follow"], 2, "--format tiles -o FOLDER"),
        (["--format", "tiles", "-o", "/no/such", "--from-seq", "0"], 2, "--format tiles -o FOLDER"),
        (["--format", "syslog", "--to", "tls://localhost:1", "--resend", "-1"], 2, "--resend"),
        (["--format", "syslog", "--to", "tls://localhost:1", "--ca", "/no/such"], 2, "--ca"),
        (["--format", "jsonl", "-o", "/no/such/folder/x"], 3, "cannot be written"),
        (["--format", "jsonl", "-o", "/dev/null"], 2, "not a regular file"),
    ],
)
def test_what_cannot_be_done_is_said(cli: Callable[..., Answer], argv: list[str], code: int, words: str) -> None:
    """One clear sentence and what to do, exit 2 for what was asked and 3 for the world; no secret is repeated."""
    answer = cli(*argv)
    assert (code, b"") == (answer.code, answer.out)
    assert words in answer.err.decode()
    assert b"secret" not in answer.err


@pytest.mark.parametrize("to", ["tcp://localhost:{port}", "tls://localhost:{port}", "http://localhost:{port}"])
def test_unreachable_receiver_is_exit_3(cli: Callable[..., Answer], to: str) -> None:
    """Nobody listens: told at once, with the address."""
    port = free_port()
    answer = cli("--format", "otlp" if to.startswith("http") else "syslog", "--to", to.format(port=port), "--json")
    assert 3 == answer.code
    assert f"localhost:{port} cannot be reached" in json.loads(answer.err)["error"]["message"]


def test_no_log_is_exit_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """There is nothing to export from."""
    assert 3 == run(["export", "--format", "jsonl", "--log", str(tmp_path / "no")])
    assert "There is no log" in capfd.readouterr().err


# --- cursors -------------------------------------------------------------------------------------------


def test_cursor_goes_on_where_the_last_export_ended(cli: Callable[..., Answer], place: Path) -> None:
    """Each export with a cursor adds what is new; one that is refused changes nothing."""
    out = place / "out.jsonl"
    first = cli("--format", "jsonl", "-o", str(out), "--cursor", "nightly", "--from-seq", "3", "--json")
    assert 3 == json.loads(first.out)["begin"]
    size = len(stored(place))
    assert list(range(3, size)) == seqs(out.read_bytes())
    assert 2 == cli("--format", "jsonl", "-o", str(out), "--cursor", "nightly", "--from-seq", "3").code
    assert 2 == cli("--format", "csv", "-o", str(out), "--cursor", "nightly").code
    with AuditLog.open(place / "audit") as audit:
        audit.log("x_note", "user@example.com")
    again = cli("--format", "jsonl", "-o", str(out), "--cursor", "nightly", "--json")
    assert size == json.loads(again.out)["begin"]
    assert list(range(3, len(stored(place)))) == seqs(out.read_bytes())
    assert stored(place)[3:] == out.read_bytes().splitlines()


def test_cursor_of_another_log_is_refused(cli: Callable[..., Answer], place: Path, tmp_path: Path) -> None:
    """A state folder of another log does not make entries of this one go missing."""
    out = str(place / "out.jsonl")
    with AuditLog.open(tmp_path / "other") as audit:
        audit.log("x_note", "user@example.com")
    assert 0 == run(["export", "--format", "jsonl", "-o", out, "--cursor", "n", "--log", str(tmp_path / "other")])
    shutil.copytree(tmp_path / "other.state" / "exports", place / "audit.state" / "exports")
    answer = cli("--format", "jsonl", "-o", out, "--cursor", "n")
    assert 2 == answer.code
    assert b"belongs to another log" in answer.err


# --- what is recorded ----------------------------------------------------------------------------------


def test_export_can_be_an_entry(cli: Callable[..., Answer], place: Path) -> None:
    """With --record, before anything leaves; the entry itself is not in that export."""
    size = len(stored(place))
    answer = cli("--format", "ocsf", "-o", str(place / "out"), "--record", "--json")
    told = json.loads(answer.out)
    assert (True, size) == (told["recorded"], told["entries"])
    (entry,) = [json.loads(line) for line in stored(place) if b'"log_exported"' in line]
    assert {
        "command": "export",
        "format": "ocsf",
        "to": "file",
        "begin": 0,
        "tree_size": size,
        "follow": False,
    } == entry["metadata"]
    assert ("log", "export", "success") == (entry["resource_type"], entry["action"], entry["outcome"])


def test_policy_can_ask_for_the_entry(cli: Callable[..., Answer], place: Path) -> None:
    """`reads = "record"`: without keys to write with there is no export."""
    policy = place / "audit.keys" / "policy.toml"
    policy.write_text(policy.read_text().replace('reads = "off"', 'reads = "record"', 1))
    answer = cli("--format", "jsonl")
    assert 0 == answer.code
    assert b"This was recorded in the log." in answer.err
    shutil.rmtree(place / "audit.keys" / "next", ignore_errors=True)
    (place / "audit.keys" / "log.key").unlink()
    refused = cli("--format", "jsonl")
    assert 0 != refused.code
    assert b"" == refused.out


def test_library_records_where_a_writer_is_open(place: Path) -> None:
    """An open AuditLog records its exports, everything logged so far included; a reader does not."""
    stream = io.BytesIO()
    with AuditLog.open(place / "audit") as audit, acting("auditor@example.com"):
        audit.log("x_note", metadata={"last": True})
        done = export(audit, "jsonl", file=stream, until="now")
        assert done.recorded
        assert b'"last":true' in stream.getvalue().splitlines()[-1]
        audit.flush("published")
        (entry,) = [json.loads(line) for line in audit.entries() if b'"log_exported"' in line]
        assert ("jsonl", "file", "now") == tuple(entry["metadata"][name] for name in ("format", "to", "until"))
        assert not export(audit.reader, "jsonl", file=io.BytesIO()).recorded


def test_reading_alone_is_enough(place: Path, tmp_path: Path) -> None:
    """A copy without keys and state, read-only, can be exported."""
    shutil.copytree(place / "audit", tmp_path / "copy")
    subprocess.run(["chmod", "-R", "a-w", str(tmp_path / "copy")], check=True)
    done = subprocess.run(
        [*COMMAND, "export", "--format", "csv", "--log", str(tmp_path / "copy")], capture_output=True, check=True
    )
    assert len(stored(place)) + 1 == len(done.stdout.splitlines())
    assert ["copy", "place"] == sorted(os.listdir(tmp_path))


# --- following -----------------------------------------------------------------------------------------


class Follower:
    """`export --follow` as a process of its own."""

    def __init__(self, place: Path, *argv: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "export", "--follow", "--json", *argv, "--log", str(place / "audit")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self, number: int) -> tuple[int, dict[str, Any]]:
        """End it by a signal; returns the exit code and what it said at the end, if it could."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        lines = (out or err).splitlines()
        return self.process.returncode, json.loads(lines[-1]) if lines and lines[-1].startswith(b"{") else {}


@pytest.fixture
def followers() -> Iterator[list[Follower]]:
    """Processes that are ended with the test."""
    found: list[Follower] = []
    yield found
    for follower in found:
        if follower.process.poll() is None:
            follower.process.kill()
        follower.process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number,code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_follower_ends_in_order(place: Path, followers: list[Follower], number: int, code: int) -> None:
    """New entries go out as they are written; a signal ends it with a summary and its cursor behind the last one."""
    out = place / "out.jsonl"
    followers.append(Follower(place, "--format", "jsonl", "-o", str(out), "--record"))
    with AuditLog.open(place / "audit") as audit:
        for number_ in range(20):
            audit.log("x_note", "user@example.com", metadata={"late": number_}).wait("published")
            time.sleep(0.02)
        wait_until(lambda: out.exists() and audit.reader.size == len(out.read_bytes().splitlines()))
        ended, told = followers[0].end(number)
    assert (code, True) == (ended, told["recorded"])
    (cursor,) = (place / "audit.state" / "exports").glob("jsonl-????????.json")
    assert told["end"] == json.loads(cursor.read_bytes())["next"] == len(out.read_bytes().splitlines())
    assert stored(place)[: told["end"]] == out.read_bytes().splitlines()
    assert 1 == sum(b'"log_exported"' in line for line in stored(place))


@pytest.mark.slow
def test_exporter_that_is_killed_goes_on(place: Path, followers: list[Follower]) -> None:
    """Killed twice in the middle: every entry arrives at least once, and a growing file never holds half a line."""
    with SyslogReceiver() as receiver, AuditLog.open(place / "audit") as audit:
        written = place / "out.csv"
        for last in (False, False, True):
            followers.append(Follower(place, "--format", "syslog", "--to", f"tcp://localhost:{receiver.port}"))
            followers.append(Follower(place, "--format", "csv", "-o", str(written)))
            before = audit.reader.size
            wait_until(lambda before=before: max(seqs_of(receiver.messages), default=0) >= before - 1)
            for number in range(2_000):
                audit.log("x_note", "user@example.com", metadata={"n": number})
            audit.flush("published")
            if not last:
                followers[-1].end(signal.SIGKILL)
                followers[-2].end(signal.SIGKILL)
        size = audit.reader.size
        wait_until(lambda: seqs_of(receiver.messages) >= set(range(size)))
        wait_until(lambda: written.exists() and len(rows(written)) >= size)
        assert 0 == followers[-1].end(signal.SIGTERM)[0] == followers[-2].end(signal.SIGTERM)[0]
    found = rows(written)
    assert list(range(size)) == list(dict.fromkeys(int(row["seq"]) for row in found))[:size]


def seqs_of(messages: list[bytes]) -> set[int]:
    found = (re.search(rb' seq="([0-9]+)"', message) for message in messages)
    return {int(match[1]) for match in found if match is not None}


def rows(path: Path) -> list[dict[str, str]]:
    found = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    assert all(row["origin"].startswith(ORIGIN) for row in found[:-1])
    return found


def test_trouble_is_told_while_it_lasts(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A receiver that goes away is a remark on stderr, not the end, while somebody follows."""
    from klingai_audit.cli import exporting
    from klingai_audit.cli.session import Session
    from klingai_audit.exports.sink import SinkLost

    exporting._tell_trouble(Session(), SinkLost("localhost:1 \x1b[31mbroke."), 0.4)
    assert "localhost:1 \\x1b[31mbroke. Trying again in 0.4 s." in capfd.readouterr().err


def test_nowhere_to_go(place: Path) -> None:
    """The library wants a place; the command line takes standard output."""
    with pytest.raises(UsageError):
        export(open_reader(Places.resolve(place / "audit")), "jsonl")


def test_reader_that_goes_away_ends_it(place: Path) -> None:
    """Exit code 141, without a word, as for all output."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "export", "--format", "csv", "--log", str(place / "audit")]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert 141 == done.returncode
    assert b"Error" not in done.stderr


def test_two_exports_with_one_cursor(place: Path, cli: Callable[..., Answer]) -> None:
    """The second is refused while the first holds it."""
    with CursorFile.open(place / "audit.state", "c"):
        answer = cli("--format", "jsonl", "-o", str(place / "out"), "--cursor", "c")
    assert 2 == answer.code
    assert b"Another export uses" in answer.err


def test_stop_before_the_end_is_no_loss(place: Path) -> None:
    """A course that is told to stop ends after the present batch, and the cursor says how far it came."""
    stream = io.BytesIO()
    reader = open_reader(Places.resolve(place / "audit"))
    with CursorFile.open(place / "audit.state", "c") as cursor:
        done = export(reader, "jsonl", file=stream, cursor=cursor, course=Course(stop=lambda: True))
        assert (0, 0) == (done.end, done.entries)
        done = export(reader, "jsonl", file=stream, cursor=cursor)
    assert stored(place) == stream.getvalue().splitlines()
    assert len(stored(place)) == done.end
