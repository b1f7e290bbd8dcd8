"""The schema of a log in PostgreSQL as SQL text: numbered migrations, roles, grants. Speaks to no server.

The texts lie in `postgres_sql/`: `<part>_<number>_<name>.sql`. Two parts, each with a version of its own in the table
`versions`: `log` (one log) and `subjects` (the people behind pseudonyms). Source: docs/postgresql-schema.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Final, Literal, NamedTuple, get_args

from klingai_audit.errors import UsageError

__all__ = [
    "DEFAULT_SCHEMA",
    "ROLES",
    "Migration",
    "Part",
    "check_schema_name",
    "dba_sql",
    "grants_sql",
    "lock_sql",
    "migrations",
    "newest",
    "upgrade_sql",
    "versions_sql",
]

Part = Literal["log", "subjects"]

DEFAULT_SCHEMA: Final = "klingai_audit"
"""The schema of a URL that names none."""

ROLES: Final = ("owner", "writer", "reader", "retention", "privacy")
"""Roles of a schema, without its name and `_` in front."""

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,50}").fullmatch
_FILE: Final = re.compile(r"([a-z]+)_([0-9]{4})_([a-z_]+)\.sql").fullmatch
_TOKEN: Final = "@schema@"  # noqa: S105  # a place in a text
_LOCK: Final = (
    "DO $lock$ BEGIN PERFORM pg_advisory_xact_lock(hashtextextended('klingai-audit/schema/@schema@', 0)); END $lock$;\n"
)


class Migration(NamedTuple):
    """One step from version `number - 1` of a part to `number`."""

    part: str
    number: int
    name: str
    text: str


def check_schema_name(schema: str) -> str:
    """Return the name of a schema if it may be one. Raises: UsageError."""
    if not _NAME(schema) or schema.startswith("pg_"):
        raise UsageError(
            "The schema in the URL is not a name that a log can have.",
            do="Use small letters, digits and underscores, at most 51, not `pg_` in front: ?schema=audit_video",
        )
    return schema


@cache
def migrations(part: Part) -> tuple[Migration, ...]:
    """Return the steps of a part in order, the schema's name still open."""
    found = []
    for file in files(__package__).joinpath("postgres_sql").iterdir():
        named = _FILE(file.name)
        if named is not None and named[1] == part:
            found.append(Migration(part, int(named[2]), named[3], file.read_text(encoding="utf-8")))
    return tuple(sorted(found, key=lambda step: step.number))


def newest(part: Part) -> int:
    """Return the version that this program writes."""
    return migrations(part)[-1].number


def lock_sql(schema: str) -> str:
    """Return the SQL that lets one transaction at a time make or change a schema."""
    return _filled(_LOCK, schema)


def versions_sql(schema: str) -> str:
    """Return the SQL that makes the table of versions, if it is not there."""
    return _filled(
        'CREATE TABLE IF NOT EXISTS "@schema@".versions ('
        "part text NOT NULL, version integer NOT NULL, name text NOT NULL,"
        " at timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (part, version));\n",
        schema,
    )


def upgrade_sql(schema: str, parts: Iterable[Part], *, up_to: int | None = None) -> str:
    """Return the SQL that runs the steps that are missing, each only once; for one transaction.

    `up_to` ends a part at an older version.
    """
    text = [lock_sql(schema), versions_sql(schema)]
    for part in parts:
        text += [_step_sql(schema, step) for step in migrations(part) if up_to is None or step.number <= up_to]
    return "\n".join(text)


def grants_sql(schema: str) -> str:
    """Return the SQL that grants to those roles of the schema that are there what each needs."""
    return _filled(_text("grants"), schema)


def dba_sql(schema: str = DEFAULT_SCHEMA, *, parts: Iterable[Part] = get_args(Part)) -> str:
    """Return a script that makes or upgrades everything: roles, schema, tables, guards, grants.

    For whoever may create roles and schemas in the database (a superuser, or CREATEROLE and CREATE on the database).
    It is one transaction; running it again changes nothing. All belongs to the role `<schema>_owner`, which nobody is.
    Raises: UsageError.
    """
    check_schema_name(schema)
    return "\n".join(
        [
            f"-- klingai-audit: schema {schema}. Run it with: psql --set ON_ERROR_STOP=1 --file THIS DATABASE",
            f"-- Afterwards: GRANT {schema}_writer TO the login role of the service (and so on, see below).",
            *(f"--   {schema}_{name:<10} {_DUTIES[name]}" for name in ROLES),
            "BEGIN;",
            _filled(_text("roles"), schema),
            f'SET LOCAL ROLE "{schema}_owner";',
            "SET LOCAL client_min_messages = warning;",
            upgrade_sql(schema, parts),
            grants_sql(schema),
            "COMMIT;",
            "",
        ]
    )


_DUTIES: Final = {
    "owner": "owns all of it; grant it to nobody",
    "writer": "appends entries, publishes, adds people; changes and removes nothing",
    "reader": "reads the log, not who is behind a pseudonym",
    "retention": "puts the lines of a purge in the places of entries",
    "privacy": "erases people",
}


@cache
def _text(name: str) -> str:
    return files(__package__).joinpath("postgres_sql", f"{name}.sql").read_text(encoding="utf-8")


def _filled(text: str, schema: str) -> str:
    return text.replace(_TOKEN, schema)


def _step_sql(schema: str, step: Migration) -> str:
    return (
        "DO $step$\nBEGIN\n"
        f'IF NOT EXISTS (SELECT FROM "{schema}".versions'
        f" WHERE part = '{step.part}' AND version = {step.number}) THEN\n"
        f"EXECUTE $migration$\n{_filled(step.text, schema)}$migration$;\n"
        f'INSERT INTO "{schema}".versions (part, version, name)'
        f" VALUES ('{step.part}', {step.number}, '{step.name}');\n"
        "END IF;\nEND\n$step$;\n"
    )
