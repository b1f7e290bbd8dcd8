"""Detection rules over real logs: what they find, what is written, and that it is written once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from klingai_audit.cli.run import run
from klingai_audit.detect.rules import Rule, Trial, load_rules
from klingai_audit.detect.trials import try_rule
from klingai_audit.log import AuditLog

CASES = [(rule, trial) for rule in load_rules() for trial in rule.tests]
ASK = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "trial"), CASES, ids=[f"{rule.id}: {trial.name}" for rule, trial in CASES])
def test_rules_find_what_they_say(rule: Rule, trial: Trial) -> None:
    """Each rule that comes with the package, on its own events, in a log in memory."""
    assert trial.findings == try_rule(rule, trial)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A log with twelve refusals of one person."""
    with AuditLog.open(tmp_path / "audit") as audit:
        for _ in range(12):
            audit.log("policy_violation", "user@example.com", team="studio-a", outcome="blocked")
    return tmp_path


@pytest.fixture
def ask(place: Path, capfd: pytest.CaptureFixture[str]) -> ASK:
    def call(*argv: str) -> tuple[int, str, str]:
        code = run([*argv, "--log", str(place / "audit")])
        return code, *capfd.readouterr()

    return call


def suspicious(ask: ASK) -> list[dict[str, object]]:
    lines = ask("query", "--type", "suspicious_activity", "--json")[1].splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


@pytest.mark.slow
def test_a_finding_is_written_once(ask: ASK) -> None:
    """With its rule, its evidence and the pseudonym of whom it is about; nothing without --record."""
    code, out, _ = ask("detect", "--json")
    told = json.loads(out)
    (found,) = [one for one in told["findings"] if one["rule"] == "refusal-burst"]
    assert (1, True, False) == (code, found["new"], told["recorded"])
    assert (list(range(2, 14)), 12) == (found["seqs"], found["count"])
    assert [] == suspicious(ask)

    assert 1 == ask("detect", "--rule", "refusal-burst", "--record")[0]
    (entry,) = suspicious(ask)
    metadata = entry["metadata"]
    assert isinstance(metadata, dict)
    assert ("refusal-burst", found["seqs"], found["actor_id"], found["finding"]) == (
        metadata["rule"], metadata["seqs"], metadata["about"], metadata["finding"],
    )  # fmt: skip

    code, out, _ = ask("detect", "--rule", "refusal-burst", "--record", "--json")
    told = json.loads(out)
    assert (0, 0, False) == (code, told["new"], told["findings"][0]["new"])
    assert 1 == len(suspicious(ask))


def test_two_detectors_write_one_entry(ask: ASK, place: Path) -> None:
    """They take turns, and the second finds what the first wrote."""
    argv = ["detect", "--rule", "refusal-burst", "--record", "--log", str(place / "audit")]
    threads = [threading.Thread(target=run, args=(argv,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len(suspicious(ask))


def test_settings_and_rules_of_ones_own(ask: ASK, place: Path) -> None:
    """A parameter for one run; a folder of rules beside the keys is used without being named."""
    assert 0 == ask("detect", "--rule", "refusal-burst", "--set", "refusal-burst.refusals=13")[0]
    folder = place / "audit.keys" / "rules"
    folder.mkdir()
    (folder / "mine.toml").write_text(
        'title = "Mine"\nmeaning = "M."\nseverity = "high"\n[rule]\n'
        "sql = \"SELECT 'x' AS finding, [min(seq)] AS seqs, '\x1b[31m=cmd' AS what FROM events\"\n".replace(
            "\x1b", "\\u001b"
        )
    )
    code, out, _ = ask("detect", "--rule", "mine")
    assert 1 == code
    assert "Mine" in out
    assert "\x1b[31m" not in out


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nosuch AS finding, [seq] AS seqs FROM events",
        "SELECT 'a' AS finding FROM events",
        "SELECT 'a' AS finding, 'b' AS seqs FROM events",
        "DELETE FROM events",
        "SELECT 'a' AS finding, [1] AS seqs FROM read_csv('/etc/passwd')",
        "SELECT 'a' AS finding, [1] AS seqs; SELECT 2",
    ],
)
def test_a_rule_that_is_wrong_is_named(ask: ASK, place: Path, tmp_path: Path, sql: str) -> None:
    """Exit 2, one sentence with the rule's id; rules run in the sandbox."""
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "mine.toml").write_text(f'title = "M"\nmeaning = "M."\nseverity = "low"\n[rule]\nsql = """{sql}"""\n')
    code, _, err = ask("detect", "--rules", str(folder), "--rule", "mine")
    assert (2, True) == (code, err.startswith("klingai-audit: Rule mine: "))


def test_the_list_says_what_each_rule_means(ask: ASK) -> None:
    """For people and for programs."""
    code, out, _ = ask("detect", "--list", "--json")
    assert (0, {rule.id for rule in load_rules()}) == (code, {json.loads(line)["rule"] for line in out.splitlines()})
    assert "Many refusals of one person" in ask("detect", "--list")[1]


@pytest.mark.slow
def test_an_empty_log_has_no_findings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Exit 0."""
    AuditLog.open(tmp_path / "audit").close()
    assert 0 == run(["detect", "--log", str(tmp_path / "audit")])
