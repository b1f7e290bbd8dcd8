"""`report` and `sample` through the command line, on a real log."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from tests.support.reportlog import START, Team, units

UNTIL = "2026-09-05"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small closed log; copied for every test that writes."""
    team = Team(tmp_path_factory.mktemp("cli-report"), start=START)
    for end in ("success", "refused", "failure", "open"):
        team.generation(
            ("user@example.com", "studio-a"), "kling-3.0-turbo", end, units("5") if end == "success" else None
        )
    team.close()
    return team.folder


@pytest.fixture
def place(made, tmp_path, monkeypatch) -> Path:
    """A copy of the log in the present folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(capfdbinary):
    """Run a command line; returns code, stdout and stderr."""

    def ask(*argv: str) -> tuple[int, bytes, bytes]:
        code = run(argv)
        return code, *capfdbinary.readouterr()

    return ask


def entries(place: Path) -> list[dict]:
    return [
        json.loads(line)
        for file in sorted((place / "audit").glob("*.jsonl"))
        for line in file.read_bytes().splitlines()
    ]


def test_without_a_file_a_summary_is_printed(place, ask):
    """A manager's summary on the terminal: verdict, figures, controls, what needs attention."""
    code, out, err = ask("report", "--until", UNTIL)
    text = out.decode()
    assert (0, True, True, True, True) == (
        code, text.startswith("No change found in "), "5  video units charged" in text, "Controls: " in text,
        b"Not recorded in the log" in err,
    )  # fmt: skip


def test_json_on_standard_output_is_the_report(place, ask):
    """`--json` without a file prints the report; whether it was recorded stands on stderr."""
    code, out, err = ask("report", "--until", UNTIL, "--json")
    told = json.loads(out)
    assert (0, 90, False, {"recorded": False}) == (
        code, told["period_days"], told["this_machine"]["recorded"], json.loads(err)
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_printed_command_makes_the_same_bytes(place, ask, form):
    """Run as printed, twice, with other entries between: equal bytes, whose digest the first report states."""
    code, out, _ = ask("report", "--until", UNTIL, "-o", f"first.{form}", "--json")
    told = json.loads(out)
    command = told["command"].split()[1:]
    ask(*command, "-o", f"second.{form}")
    ask("log", "x_more", "--actor", "user@example.com", "--resource-type", "thing", "--action", "do")
    ask(*command, "-o", f"third.{form}")
    second, third = ((place / f"{name}.{form}").read_bytes() for name in ("second", "third"))
    assert (0, second, told["sha256"]) == (code, third, hashlib.sha256(second).hexdigest())


def test_a_report_is_recorded_where_asked(place, ask):
    """`--record` appends report_generated with the digest, and the report itself says so."""
    code, out, _ = ask("report", "--until", UNTIL, "-o", "r.json", "--record", "--json")
    told = json.loads(out)
    entry = next(entry for entry in entries(place) if entry["event_type"] == "report_generated")
    machine = json.loads((place / "r.json").read_bytes())["this_machine"]
    assert (0, True, told["sha256"], told["tree_size"], True) == (
        code, told["recorded"], entry["metadata"]["sha256"], entry["metadata"]["tree_size"], machine["recorded"],
    )  # fmt: skip


def test_policy_can_record_every_report(place, ask):
    """Where policy records reads, a report is recorded without being asked for."""
    ask("policy", "set", "privacy.reads", "record")
    _, out, _ = ask("report", "--until", UNTIL, "-o", "r.csv", "--json")
    assert (True, 1) == (
        json.loads(out)["recorded"],
        sum(entry["event_type"] == "report_generated" for entry in entries(place)),
    )


def test_an_empty_beginning_is_said(place, ask):
    """At size 0 there is nothing, and that is what the report says."""
    code, out, _ = ask("report", "--at", "0", "--until", UNTIL)
    assert (0, b"The log is empty.") == (code, out.splitlines()[0])


def test_a_log_that_does_not_verify_is_reported_with_exit_4(place, ask):
    """The report of a changed log is written, says so, and supports nothing that rests on integrity."""
    file = next((place / "audit").glob("*.jsonl"))
    file.write_bytes(file.read_bytes().replace(b'"outcome":"blocked"', b'"outcome":"success"', 1))
    code, _, _ = ask("report", "--until", UNTIL, "-o", "r.json")
    told = json.loads((place / "r.json").read_bytes())
    assert (4, False, "failed") == (code, told["integrity"]["holds"], told["checks"][0]["state"])


def test_pseudonyms_leave_no_mask(place, ask):
    """`--pseudonyms` shows nobody's mask, and the printed command asks for the same."""
    ask("report", "--until", UNTIL, "--pseudonyms", "-o", "r.json")
    text = (place / "r.json").read_text()
    assert ("us***@" in text, "--pseudonyms" in json.loads(text)["command"]) == (False, True)


def test_frameworks_are_chosen_by_name(place, ask):
    """Only the named frameworks are in the report, and the printed command names them again."""
    ask("report", "--until", UNTIL, "--framework", "pci,soc2", "--framework", "hipaa", "-o", "r.json")
    told = json.loads((place / "r.json").read_bytes())
    names = {row["control_id"].split(":")[0] for row in told["controls"]}
    assert ({"pci", "soc2", "hipaa"}, True) == (names, "--framework pci,soc2,hipaa" in told["command"])


@pytest.mark.parametrize(
    "argv",
    [
        ("report", "--until", "soon"),
        ("report", "--days", "0"),
        ("report", "--at", "100000"),
        ("report", "--framework", "iso9001"),
        ("report", "-o", "r.docx"),
        ("report", "-o", "nowhere/r.json", "--until", UNTIL),
        ("sample", "--seed", "s", "-o", "s.csv", "--n", "0"),
        ("sample", "--seed", "", "-o", "s.csv"),
        ("sample", "--seed", "s", "-o", "s.csv", "--query", "SELECT 1"),
        ("sample", "--seed", "s", "-o", "s.csv", "--query", "SELECT 'x' AS seq"),
        ("sample", "--seed", "s", "-o", "s.csv", "--query", "SELECT seq FROM events", "--type", "video_downloaded"),
        ("sample", "-o", "s.csv"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(place, ask, argv):
    """Bad dates, formats, frameworks and queries are refused before anything is written."""
    code, out, err = ask(*argv)
    assert (2, b"", True) == (code, out, err.startswith(b"klingai-audit: "))
    assert not (place / "s.csv").exists()


def test_filters_and_sql_draw_the_same_sample(place, ask):
    """A population named by filters or by a SELECT is the same population."""
    ask("sample", "--seed", "s", "-n", "3", "-o", "a.csv", "--category", "operations")
    ask(
        "sample",
        "--seed",
        "s",
        "-n",
        "3",
        "-o",
        "b.csv",
        "--query",
        "SELECT seq FROM events WHERE category = 'operations'",
    )
    assert (place / "a.csv").read_bytes() == (place / "b.csv").read_bytes()


def test_a_sampled_proof_checks_on_the_command_line(place, ask):
    """A cell of the column `proof`, saved as it is, passes `check`."""
    code, out, _ = ask("sample", "--seed", "s", "-n", "2", "-o", "s.csv", "--json")
    with (place / "s.csv").open(newline="", encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    (place / "one.tlog-proof").write_bytes(row["proof"].encode())
    checked, _, _ = ask("check", "one.tlog-proof")
    assert (0, 2, 0) == (code, json.loads(out)["drawn"], checked)


def test_the_command_beside_a_control_draws_its_entries(place, ask):
    """The command that a control names runs as printed, and its population is the control's entries."""
    ask("report", "--until", UNTIL, "-o", "r.json")
    rows = json.loads((place / "r.json").read_bytes())["controls"]
    row = next(row for row in rows if row["control_id"] == "asvs:16.3.3")
    code, out, _ = ask(*row["proof_refs"][0].split()[1:], "--json")
    assert (0, sum(row["entries"].values())) == (code, json.loads(out)["population"])


def test_a_sample_is_recorded_with_its_population(place, ask):
    """`--record` appends seed, population and digest."""
    _, out, _ = ask("sample", "--seed", "s", "-n", "2", "-o", "s.csv", "--record", "--json")
    told = json.loads(out)
    entry = next(entry for entry in entries(place) if entry["event_type"] == "report_generated")
    assert ("s", 2, told["population"], told["population_sha256"], True) == (
        *(entry["metadata"][name] for name in ("seed", "n", "population", "population_sha256")), told["recorded"],
    )  # fmt: skip


def test_a_sample_of_an_earlier_size_is_the_same_population(place, ask):
    """`--at` keeps later entries out of the draw."""
    _, first, _ = ask("sample", "--seed", "s", "-o", "a.csv", "--json")
    at = json.loads(first)["at"]
    ask("log", "x_more", "--actor", "user@example.com", "--resource-type", "thing", "--action", "do")
    _, again, _ = ask("sample", "--seed", "s", "-o", "b.csv", "--at", str(at), "--json")
    one, two = json.loads(first), json.loads(again)
    assert (one["seqs"], one["population_sha256"]) == (two["seqs"], two["population_sha256"])
