"""`query --sql` through the command line: what comes out, in which form, and what is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog

HOSTILE = "=cmd|' /C calc'!A0\x1b[31m\u202ered\r\n[bold]x"


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of four entries of people, closed."""
    folder = tmp_path_factory.mktemp("cli-sql")
    with AuditLog.open(folder / "audit") as audit:
        for number, outcome in enumerate(("success", "failure", "blocked")):
            audit.log("x_act", "user@example.com", team="studio-a", outcome=outcome, number=number)
        audit.log("x_odd", "boss@example.org", team=HOSTILE)
    return folder


@pytest.fixture
def ask(place: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `query --sql` on the log."""

    def call(text: str, *options: str) -> Answer:
        code = run(["query", "--sql", text, "--log", str(place / "audit"), *options])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


def test_a_table_fits_the_terminal(ask, monkeypatch):
    """Columns side by side where they fit, one row below the other where not; never wider than the screen."""
    monkeypatch.setenv("COLUMNS", "60")
    grouped = ask("SELECT outcome, count(*) AS n FROM events WHERE event_type = 'x_act' GROUP BY 1 ORDER BY 1")
    assert (0, ["outcome  n", "blocked  1", "failure  1", "success  1"]) == (
        grouped.code,
        [line.rstrip() for line in grouped.out.splitlines()],
    )
    whole = ask("SELECT * FROM events WHERE event_type = 'x_act' ORDER BY seq LIMIT 2")
    lines = [line.rstrip() for line in whole.out.splitlines()]
    assert all(len(line) <= 60 for line in lines)
    assert (2, 2) == tuple(sum(line.split()[:1] == [name] for line in lines) for name in ("event_type", "actor_id"))


def test_json_is_one_object(ask):
    """Columns, types, rows, how many entries were looked at, and whether the question was recorded."""
    found = ask("SELECT seq, timestamp, metadata->>'$.number' AS n FROM events WHERE event_type = 'x_act' ORDER BY 1",
                "--json", "--limit", "2")  # fmt: skip
    told = json.loads(found.out)
    assert ["seq", "timestamp", "n"] == told["columns"]
    assert ["UBIGINT", "TIMESTAMP", "VARCHAR"] == told["types"]
    assert [["2", "0"], ["3", "1"]] == [[str(row[0]), row[2]] for row in told["rows"]]
    assert all(row[1].endswith("Z") for row in told["rows"])
    assert (True, 7, False) == (told["more"], told["tree_size"], told["recorded"])


def test_csv_holds_no_formula_and_no_control_character(ask):
    """A field that a spreadsheet would run gets an apostrophe, control characters become visible, numbers stay."""
    columns = "team, -1 AS n, NULL AS nothing, '@x' AS at, ' +x' AS plus"
    found = ask(f"SELECT {columns} FROM events WHERE event_type = 'x_odd'", "--csv")
    rows = list(csv.reader(io.StringIO(found.out)))
    assert ["team", "n", "nothing", "at", "plus"] == rows[0]
    assert ["-1", "", "'@x", "' +x"] == rows[1][1:]
    assert rows[1][0].startswith("'=cmd|")
    assert not set(found.out) & set("\x1b\u202e")
    assert 2 == found.out.count("\r\n")


def test_a_table_is_inert(ask):
    """What a caller put into a field reaches the terminal as text."""
    found = ask("SELECT team FROM events WHERE event_type = 'x_odd'")
    assert "\\x1b[31m" in found.out
    assert "[bold]x" in found.out
    assert not set(found.out) & set("\x1b\u202e\r")


def test_parquet_keeps_the_types(ask, tmp_path):
    """The file has the columns with DuckDB's types; equal names get numbers; nested values are JSON."""
    target = tmp_path / "a'b.parquet"
    text = (
        "SELECT seq, timestamp, outcome, 1.50::DECIMAL(38,9) AS d, [1, 2] AS l, 1 AS seq, INTERVAL 1 DAY AS i, actor_id"
        " FROM events WHERE event_type = 'x_act' ORDER BY 1"
    )
    assert 0 == ask(text, "--parquet", str(target)).code
    with duckdb.connect() as engine:
        found = engine.execute("SELECT * FROM read_parquet(?)", [str(target)])
        names = [column[0] for column in found.description]
        rows = found.fetchall()
        types = [row[0] for row in engine.execute("SELECT column_type FROM (DESCRIBE FROM read_parquet(?))",
                 [str(target)]).fetchall()]  # fmt: skip
    assert ["seq", "timestamp", "outcome", "d", "l", "seq_1", "i", "actor_id"] == names
    assert ["UBIGINT", "TIMESTAMP", "VARCHAR", "DECIMAL(38,9)", "VARCHAR", "INTEGER", "VARCHAR", "VARCHAR"] == types
    assert (3, "[1,2]", "p_") == (len(rows), rows[0][4], rows[0][7][:2])
    assert ["a'b.parquet"] == [path.name for path in tmp_path.iterdir()]
    assert 0 == ask("SELECT seq FROM events WHERE FALSE", "--parquet", str(target)).code
    lost = ask("SELECT 1", "--parquet", str(tmp_path / "nowhere" / "x.parquet"))
    assert (3, True) == (lost.code, "cannot be written" in lost.err)


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("SELECT nope FROM events", (), "nope"),
        ("SELEC 1", (), "syntax error"),
        ("SELECT * FROM read_csv('/etc/passwd')", (), "read_csv is not allowed"),
        ("COPY events TO 'x'", (), "only SELECT"),
        ("SELECT * FROM events WHERE timestamp > '2026-99-01'", (), "not of the type"),
        ("SELECT 1", ("--limit", "0"), "limit"),
        ("SELECT 1", ("--team", "a"), "--sql goes with"),
        ("SELECT 1", ("--reverse",), "--sql goes with"),
        ("SELECT 1", ("--csv", "--json"), "Only one of"),
        ("SELECT '\udc80'", (), ""),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(ask, text, options, words):
    """One message, exit code 2, nothing on standard output; arguments in other encodings are arguments."""
    found = ask(text, *options)
    if words:
        told = found.err if "--json" not in options else json.loads(found.err.splitlines()[-1])["error"]["message"]
        assert (2, "", True) == (found.code, found.out, words in told)
    else:
        assert 0 == found.code


def test_no_row_is_an_answer(ask):
    """Nothing found: exit 0, and a remark."""
    found = ask("SELECT seq FROM events WHERE team = 'nobody'")
    assert (0, "", True) == (found.code, found.out, "No row." in found.err)


def test_a_recorded_question_keeps_the_text_to_itself(tmp_path, capfd):
    """With --record the entry holds a commitment to the SQL, not its words, which may name people."""
    with AuditLog.open(tmp_path / "audit"):
        pass
    text = "SELECT count(*) FROM events WHERE team = 'user@example.com'"
    assert 0 == run(["query", "--sql", text, "--record", "--log", str(tmp_path / "audit")])
    stored = b"".join(path.read_bytes() for path in (tmp_path / "audit").glob("*.jsonl"))
    assert (True, False) == (b'"log_queried"' in stored, b"user@example.com" in stored)
    assert "This was recorded" in capfd.readouterr().err


def test_the_library_answers_what_was_just_logged(tmp_path):
    """`AuditLog.sql` and `.index` hold everything up to the call, also of a log in memory."""
    for where in (tmp_path / "audit", "memory:"):
        with AuditLog.open(where) as audit:
            for number in range(3):
                audit.log("x_act", "user@example.com", number=number)
                assert [(number + 1,)] == audit.sql("SELECT count(*) FROM events WHERE event_type = 'x_act'").rows
            assert [(3,)] == audit.index.rows("SELECT count(*) FROM events WHERE event_type = 'x_act'")
