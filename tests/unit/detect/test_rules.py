"""Rules as data: what is a rule and what is refused."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from klingai_audit.detect.rules import load_rules, read_rule
from klingai_audit.errors import UsageError

RULE = """
title = "A title"
meaning = "A meaning."
severity = "low"
[parameters]
least = { default = 3, unit = "entries", meaning = "At least so many" }
[rule]
sql = "SELECT 'a' AS finding, list(seq) AS seqs FROM events WHERE seq > $least AND logged_at >= $since"
"""
SINCE = dt.datetime(2026, 11, 1, tzinfo=dt.UTC)


def test_parameters_and_instants_are_filled_in() -> None:
    """A setting replaces the default; instants are literals in UTC."""
    rule = read_rule("a-rule.toml", RULE.encode())
    text = "SELECT 'a' AS finding, list(seq) AS seqs FROM events WHERE seq > {} AND logged_at >= TIMESTAMP '{}'"
    assert text.format(3, "2026-11-01 00:00:00.000000") == rule.query(SINCE, SINCE, {})
    east = SINCE.astimezone(dt.timezone(dt.timedelta(hours=8)))
    assert text.format(2.5, "2026-11-01 00:00:00.000000") == rule.query(east, SINCE, {"least": 2.5})


def test_a_setting_that_the_rule_has_not_is_refused() -> None:
    """The message names the parameters that there are."""
    with pytest.raises(UsageError, match="no parameter 'most'") as caught:
        read_rule("a-rule.toml", RULE.encode()).query(SINCE, SINCE, {"most": 1})
    assert "It has: least." == caught.value.do


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("A Rule.toml", RULE, "no rule id"),
        ("a-rule.toml", "title =", "is not a rule"),
        ("a-rule.toml", RULE.replace('severity = "low"', 'severity = "dire"'), "is not a rule"),
        ("a-rule.toml", RULE.replace('meaning = "A', 'meening = "A'), "is not a rule"),
        ("a-rule.toml", RULE.replace("$since", "$sinse"), r"\$sinse stands for nothing"),
        ("a-rule.toml", RULE.replace("least =", "since ="), "no name for a parameter"),
        ("a-rule.toml", RULE.replace('sql = "', 'sql = "\xff'), "is not a rule"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused(name: str, text: str, words: str) -> None:
    """In one sentence that names the file."""
    with pytest.raises(UsageError, match=words):
        read_rule(name, text.encode("latin-1"))


def test_a_rule_of_ones_own_replaces_one_of_ours(tmp_path: Path) -> None:
    """By its id, the file's name; others are added."""
    (tmp_path / "silence.toml").write_text(RULE)
    (tmp_path / "a-rule.toml").write_text(RULE)
    (tmp_path / "notes.txt").write_text("not a rule")
    ours, all_ = load_rules(), load_rules([tmp_path])
    assert {rule.id for rule in ours} | {"a-rule"} == {rule.id for rule in all_}
    assert {"silence", "a-rule"} == {rule.id for rule in all_ if not rule.built_in}
    assert ["a-rule"] == [rule.id for rule in load_rules([tmp_path], ["a-rule"])]


def test_an_unknown_rule_or_folder_is_refused(tmp_path: Path) -> None:
    """The message names the rules that there are."""
    with pytest.raises(UsageError, match="no rule 'nonesuch'"):
        load_rules(only=["nonesuch"])
    with pytest.raises(UsageError, match="cannot be read"):
        load_rules([tmp_path / "none"])


def test_every_rule_of_ours_is_tested_both_ways() -> None:
    """Each brings events that it finds; all but the plainest bring such as it must not."""
    for rule in load_rules():
        assert [] != [trial for trial in rule.tests if trial.findings], rule.id
        assert rule.id == "clock-stepped" or len(rule.tests) > 1, rule.id
