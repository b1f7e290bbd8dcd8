"""`query`, `tail`, `show`, `activity` on a real log, through the command line."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.log import AuditLog

TASK = "831234567890123456"
INTENT = "0199aaaa-bbbb-7ccc-8ddd-000000000001"
HOSTILE = "\x1b]0;pwned\x07 [bold red]x[/] \u202eabc\r\n:smile: \u009b31m"


@dataclass(frozen=True)
class Answer:
    """What one command line did."""

    code: int
    out: bytes
    err: bytes

    @property
    def lines(self) -> list[bytes]:
        return self.out.splitlines()

    @property
    def seqs(self) -> list[int]:
        return [json.loads(line)["seq"] for line in self.lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a few people, closed; nobody writes it any more."""
    folder = tmp_path_factory.mktemp("cli-reading")
    with AuditLog.open(folder / "audit") as audit:
        for event_type, actor, more in (
            ("prompt_submitted", "user@example.com", {"event_id": INTENT, "metadata": {"prompt": "a lake"}}),
            ("video_generation_started", "user@example.com", {"resource_type": "video", "resource_id": TASK}),
            ("video_generation_completed", "user@example.com", {"resource_type": "video", "resource_id": TASK}),
        ):
            audit.log(event_type, actor, team="studio-a", correlation_id=INTENT, **more)
        audit.log("policy_violation", "usher@example.com", team="studio-b", outcome="blocked")
        audit.log("x_note", "boss@example.org", action=HOSTILE, metadata={HOSTILE: HOSTILE})
    return folder


@pytest.fixture(scope="module")
def stored(place: Path) -> list[bytes]:
    """The log's lines as they lie on the disk."""
    return [line for day in sorted(place.glob("audit/*.jsonl")) for line in day.read_bytes().splitlines()]


@pytest.fixture
def cli(place: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Answer]:
    """Run a command line on the log."""

    def call(*argv: str) -> Answer:
        code = run([*argv, "--log", str(place / "audit")])
        out, err = capfdbinary.readouterr()
        return Answer(code, out, err)

    return call


def test_query_prints_the_stored_bytes(cli, stored):
    """Without filters `query --json` is the day files, byte for byte."""
    answer = cli("query", "--json")
    assert (0, stored) == (answer.code, answer.lines)
    assert {"recorded": False} == json.loads(answer.err)


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["--actor", "user@example.com"], [2, 3, 4]),
        (["--actor", "US***@example.com"], [2, 3, 4, 5]),
        (["--actor", "nobody@example.com"], []),
        (["--actor", "klingai-audit", "--type", "log_closed"], [7]),
        (["--type", "generation_started", "--type", "policy_violation"], [3, 5]),
        (["--category", "security"], [5]),
        (["--category", "custom"], [6]),
        (["--outcome", "blocked"], [5]),
        (["--team", "studio-a", "--limit", "2"], [2, 3]),
        (["--team", "studio-a", "--limit", "2", "--reverse"], [4, 3]),
        (["--task", TASK], [3, 4]),
        (["--task", INTENT], [2]),
        (["--correlation", INTENT], [2, 3, 4]),
        (["--resource", f"video/{TASK}"], [3, 4]),
        (["--text", "PWNED"], [6]),
        (["--since", "-30d", "--team", "studio-b"], [5]),
        (["--since=-1h", "--until", "now", "--team", "studio-b"], [5]),
        (["--until", "-1h"], []),
        (["--sort", "timestamp", "--reverse", "--limit", "2", "--team", "studio-a"], [4, 3]),
        (["--cost", ">=1"], []),
        (["--model", "kling-3.0"], []),
        (["--key", "0123456789abcdef"], []),
    ],
)
def test_filters(cli, argv, expected):
    """Each option finds its entries, `-30d` is a value, and an empty answer is exit 0."""
    answer = cli("query", "--json", *argv)
    assert (0, expected) == (answer.code, answer.seqs)


def test_today_is_the_day_of_what_was_just_written(cli, stored):
    """Unless midnight (UTC) passed meanwhile: then there is nothing of today."""
    day = json.loads(stored[5])["logged_at"][:10]
    found = cli("query", "--json", "--since", "today", "--until", "today", "--team", "studio-b").seqs
    assert found == ([5] if f"{dt.datetime.now(dt.UTC):%Y-%m-%d}" == day else [])


def test_a_cursor_goes_on_where_the_page_ended(cli):
    """The remark on stderr carries it; the last page has none."""
    first = cli("query", "--json", "--team", "studio-a", "--limit", "2")
    cursor = json.loads(first.err)["cursor"]
    second = cli("query", "--json", "--team", "studio-a", "--limit", "2", "--cursor", cursor)
    assert ([2, 3], [4]) == (first.seqs, second.seqs)
    assert {"recorded": False} == json.loads(second.err)
    assert 2 == cli("query", "--team", "studio-b", "--cursor", cursor).code


def test_entries_as_csv_and_parquet(cli, tmp_path):
    """The same entries in columns; what would be a formula in a spreadsheet is none; one form at a time."""
    import csv
    import io

    import duckdb

    answer = cli("query", "--csv", "--team", "studio-a")
    rows = list(csv.DictReader(io.StringIO(answer.out.decode())))
    assert (0, ["2", "3", "4"]) == (answer.code, [row["seq"] for row in rows])
    assert ("us***@example.com", "prompt_submitted") == (rows[0]["actor"], rows[0]["event_type"])
    path = tmp_path / "found.parquet"
    assert 0 == cli("query", "--parquet", str(path), "--type", "x_note", "--resolve").code
    (found,) = duckdb.sql(f"SELECT seq, actor, action FROM '{path}'").fetchall()
    assert (6, "boss@example.org") == found[:2]
    assert 2 == cli("query", "--csv", "--json").code


def test_global_options_before_the_command(place, cli):
    """`--log` and `--json` count wherever they stand."""
    answer = cli("--json", "--keys", str(place / "audit.keys"), "query", "--outcome", "blocked")
    assert [5] == answer.seqs


def test_resolve_adds_a_last_member(cli, stored):
    """`--resolve` shows the raw id; everything before it is untouched."""
    answer = cli("query", "--json", "--resolve", "--outcome", "blocked")
    assert stored[5][:-1] + b',"_actor":"usher@example.com"}' == answer.lines[0]


def test_people_see_masks_and_no_terminal_escapes(cli):
    """The table shows masks, and hostile text stands there as visible escapes, markup as it is."""
    answer = cli("query")
    text = answer.out.decode()
    assert 0 == answer.code
    assert ["us***@example.com", "bo***@example.org"] == [
        mask for mask in ("us***@example.com", "bo***@example.org") if mask in text
    ]
    assert [] == [
        raw for raw in ("user@example.com", "boss@example.org", "\x1b", "\x07", "\u202e", "\x9b") if raw in text
    ]
    assert "\\x1b]0;pwned\\x07 [bold red]x[/] \\u202eabc\\r\\n:smile: \\x9b31m" in text


def test_show_is_inert_too(cli):
    """Names and values of metadata are as harmless as the columns of the table."""
    answer = cli("show", "6")
    text = answer.out.decode()
    assert (0, False) == (answer.code, any(char in text for char in "\x1b\x07\u202e\x9b\r"))
    assert 3 == text.count("[bold red]x[/]")


def test_show_finds_entry_event_and_task(cli, stored):
    """A seq, an event id and a task id; with --json the stored bytes of what is shown."""
    assert [stored[4]] == cli("show", "4", "--json").lines
    assert [stored[2]] == cli("show", INTENT, "--json").lines
    assert stored[2:5] == cli("show", TASK, "--json").lines


def test_show_draws_the_life_of_a_task(cli):
    """For people the story is one line a step and a closing line."""
    lines = cli("show", TASK).out.decode().splitlines()
    assert [True] * 4 == [
        word in line
        for word, line in zip(("us***@", "prompt", "started", "completed"), [lines[0], *lines[2:]], strict=False)
    ]
    assert "success after" in lines[-1]


def test_tail_gives_the_last_ones(cli, stored):
    """The last n entries in log order, also under a filter."""
    assert stored[-3:] == cli("tail", "-n", "3", "--json").lines
    assert [3, 4] == cli("tail", "-n2", "--team", "studio-a", "--json").seqs
    assert [] == cli("tail", "-n", "0", "--json").seqs
    assert stored == cli("tail", "--lines", "100", "--json").lines


def test_activity_has_the_promised_members(cli):
    """Pseudonym, mask, totals and last activity as one object."""
    answer = json.loads(cli("activity", "user@example.com", "--json").out)
    assert ("us***@example.com", 30, 3, False) == tuple(
        answer[name] for name in ("actor", "period_days", "total_events", "recorded")
    )
    assert {"success": 3} == answer["by_outcome"]
    assert 1 == answer["by_type"]["video_generation_completed"]
    assert answer["actor_id"].startswith("p_")
    assert answer["last_activity"].endswith("Z")


@pytest.mark.parametrize(
    "argv",
    [
        ["query", "--type", "video_generaton_started"],
        ["query", "--since", "soon"],
        ["query", "--category", "x"],
        ["query", "--limit", "many"],
        ["query", "--nonsense"],
        ["show", "no-such-task"],
        ["activity", "us***@example.com"],
        ["activity", "user@example.com", "--days", "0"],
        ["nonsense"],
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(cli, argv):
    """A readable line with what to do, as JSON where asked for, no traceback, nothing on stdout."""
    people, programs = cli(*argv), cli(*argv, "--json")
    assert (2, b"", 2, b"") == (people.code, people.out, programs.code, programs.out)
    assert (True, 2) == (people.err.startswith(b"klingai-audit: "), people.err.count(b"\n"))
    error = json.loads(programs.err)["error"]
    assert ["kind", "message", "do"] == list(error)
    assert people.err.decode() == f"klingai-audit: {error['message']}\n  {error['do']}\n"


def test_no_log_is_exit_3(tmp_path, capfdbinary):
    """Where no log is, reading says so and creates nothing."""
    assert 3 == run(["query", "--json", "--log", str(tmp_path / "none")])
    assert "LogNotFound" == json.loads(capfdbinary.readouterr().err)["error"]["kind"]
    assert [] == list(tmp_path.iterdir())


def test_reading_needs_no_keys_and_changes_nothing(place, stored, tmp_path, capfdbinary):
    """A copy of the log alone, made read-only, can be searched by pseudonym; people stay pseudonyms."""
    copy = tmp_path / "audit"
    copy.mkdir()
    for path in sorted((place / "audit").rglob("*")):
        target = copy / path.relative_to(place / "audit")
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    actor = json.loads(stored[2])["actor_id"]
    assert 0 == run(["query", "--json", "--resolve", "--actor", actor, "--log", str(copy)])
    out = capfdbinary.readouterr().out.splitlines()
    assert ([2, 3, 4], [None] * 3) == ([json.loads(x)["seq"] for x in out], [json.loads(x)["_actor"] for x in out])
    assert 2 == run(["query", "--actor", "user@example.com", "--log", str(copy)])
    assert ["audit"] == [path.name for path in tmp_path.iterdir()]


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "klingai_audit.cli", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_tail_follows_another_process_until_interrupted(tmp_path):
    """`tail -f` shows entries of another process as they are published, and an interrupt ends it quietly with 130."""
    with AuditLog.open(tmp_path / "audit") as audit:
        process = start("tail", "-f", "-n", "1", "--json", "--log", str(tmp_path / "audit"))
        assert process.stdout is not None
        assert "log_opened" == json.loads(process.stdout.readline())["event_type"]
        audit.log("x_one", "user@example.com").wait("published")
        assert "x_one" == json.loads(process.stdout.readline())["event_type"]
        audit.log("x_two", "user@example.com").wait("published")
        assert "x_two" == json.loads(process.stdout.readline())["event_type"]
    assert "log_closed" == json.loads(process.stdout.readline())["event_type"]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (130, b'{"recorded":false}\n') == (process.returncode, err)


def test_a_reader_that_goes_away_is_no_error(place, tmp_path):
    """A closed pipe ends the program without a word."""
    place = Path(shutil.copytree(place, tmp_path / "copy"))
    process = start("tail", "-f", "-n", "100", "--json", "--log", str(place / "audit"))
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    with AuditLog.open(place / "audit", create=False):
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert process.stderr is not None
    assert (141, b'{"recorded":false}\n') == (process.poll(), process.stderr.read())
    process.stderr.close()


def test_record_writes_an_entry_without_raw_ids(tmp_path, capfdbinary):
    """`--record` appends `log_queried` in the reader's name before it shows anything; filters hold nobody's id."""
    log = str(tmp_path / "audit")
    with AuditLog.open(log) as audit:
        audit.log("x_one", "alice")
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setitem(os.environ, "KLINGAI_AUDIT_ACTOR", "auditor@example.com")
        assert 0 == run(["query", "--actor", "alice", "--text", "lake", "--record", "--json", "--log", log])
    assert {"recorded": True} == json.loads(capfdbinary.readouterr().err)
    assert 0 == run(["query", "--type", "log_queried", "--json", "--resolve", "--log", log])
    entry = json.loads(capfdbinary.readouterr().out)
    assert ("auditor@example.com", "query") == (entry["_actor"], entry["metadata"]["command"])
    assert "p_" == entry["metadata"]["filter"]["actor"][:2]
    assert ["commitment", "bytes"] == list(entry["metadata"]["filter"]["text"])


def test_record_refuses_to_show_what_cannot_be_recorded(place, tmp_path, capfdbinary):
    """Without the keys a read that shall be recorded shows nothing and exits 3."""
    argv = ["query", "--record", "--json", "--log", str(place / "audit"), "--keys", str(tmp_path / "none")]
    assert 3 == run(argv)
    assert b"" == capfdbinary.readouterr().out


@pytest.mark.parametrize("argv", [["tail", "-n"], ["query", "--reverse", "--limit"]])
def test_numbers_beyond_any_log(cli, argv):
    """A count that no machine can hold means all entries."""
    answer = cli(argv[0], "--json", *argv[1:], "99999999999999999999999")
    assert (0, len(cli("query", "--json").lines)) == (answer.code, len(answer.lines))


@pytest.mark.parametrize(
    "option", ["--team", "--text", "--actor", "--resource", "--task", "--correlation", "--project"]
)
def test_arguments_in_another_encoding_match_nothing(cli, option):
    """Bytes that are not UTF-8 are looked for and not found."""
    answer = cli("query", "--json", option, "\udcff")
    assert (0, []) == (answer.code, answer.lines)


def test_names_in_another_encoding(cli):
    """`show` and `activity` say what they looked for, escaped."""
    answer = cli("show", "\udcff", "--json")
    assert (2, "UsageError") == (answer.code, json.loads(answer.err)["error"]["kind"])
    answer = cli("activity", "a\udcff", "--json")
    assert (0, 0) == (answer.code, json.loads(answer.out)["total_events"])


@pytest.mark.parametrize("depth", [900, 20_000])
@pytest.mark.parametrize(
    "argv",
    [["query"], ["query", "--json", "--text", "x"], ["show", "3"], ["tail", "--task", "t"], ["show", "some-task"]],
)
def test_bottomless_metadata_is_malformed(place, tmp_path, capfdbinary, depth, argv):
    """A line that somebody nested without end is called what it is, or printed as it is; nothing recurses."""
    shutil.copytree(place, tmp_path / "copy")
    day = min(tmp_path.glob("copy/audit/*.jsonl"))
    lines = day.read_bytes().split(b"\n")
    hostile = b'"metadata":{"provider_task_id":' + b"[" * depth + b"]" * depth + b"}"
    lines[3] = lines[3].replace(b',"seq":', b"," + hostile + b',"seq":')
    day.write_bytes(b"\n".join(lines))
    code = run([*argv, "--log", str(tmp_path / "copy" / "audit")])
    err = capfdbinary.readouterr().err
    assert b"Internal" not in err
    assert code in (0, 2, 4)
