"""The SQL of a log in PostgreSQL as text: names, steps, the script for a DBA. No server is asked."""

from __future__ import annotations

import re

import pytest

from klingai_audit.errors import UsageError
from klingai_audit.stores.postgres_schema import DEFAULT_SCHEMA, ROLES, dba_sql, migrations, newest, upgrade_sql


@pytest.mark.parametrize("part", ["log", "subjects"])
def test_steps_are_numbered_without_gaps(part: str) -> None:
    """A step that is missing would leave a schema between two versions."""
    steps = migrations(part)
    assert list(range(1, len(steps) + 1)) == [step.number for step in steps]
    assert newest(part) == len(steps)


def test_each_step_runs_only_where_it_is_missing() -> None:
    """The script of a DBA may be run again, and on an older schema."""
    text = dba_sql()
    steps = [*migrations("log"), *migrations("subjects")]
    for step in steps:
        assert f"part = '{step.part}' AND version = {step.number})" in text
    assert len(steps) == text.count("$migration$;")
    assert text.count("BEGIN;") == text.count("COMMIT;") == 1


def test_an_older_version_is_made_of_the_first_steps() -> None:
    """Tests of upgrades need schemas as older versions made them."""
    assert "guard_entries" in upgrade_sql(DEFAULT_SCHEMA, ("log",))
    assert "guard_entries" not in upgrade_sql(DEFAULT_SCHEMA, ("log",), up_to=1)


def test_the_schema_has_its_own_roles() -> None:
    """Everything in the script is named after the schema; nothing is left open."""
    text = dba_sql("audit_video")
    assert "@" not in re.sub(r"--.*", "", text)
    assert DEFAULT_SCHEMA not in text
    for role in ROLES:
        assert f"audit_video_{role}" in text


@pytest.mark.parametrize("name", ["Audit", "a;b", 'a"b', "a'b", "pg_audit", "", "\u00e4", "1a", "a" * 60])
def test_names_that_no_schema_has(name: str) -> None:
    """They are refused before any SQL is made of them."""
    with pytest.raises(UsageError):
        dba_sql(name)
