"""Rules as data: one TOML file each, with what it means, its parameters, its SQL and the events that test it.

A rule's SQL is one SELECT over the view `events` (docs/sql.md). It gives the columns `finding` (text that is equal
when the same finding is found again) and `seqs` (the evidence), and may give `actor_id`, `team` and `what` (a short
sentence). `$name` stands for a parameter, `$since` and `$now` for instants. Source of the form: docs/detections.md.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from klingai_audit.errors import UsageError

__all__ = ["BUILT_IN", "Parameter", "Rule", "Trial", "load_rules", "read_rule"]

BUILT_IN: Final = "rules"
"""Folder of this package that holds the rules that come with it."""

_ID: Final = re.compile(r"[a-z][a-z0-9-]{1,62}", re.ASCII)
_NAME: Final = re.compile(r"[a-z][a-z_]{0,30}", re.ASCII)
_PLACE: Final = re.compile(r"\$([A-Za-z_]\w*)", re.ASCII)
_GIVEN: Final = ("since", "now")


class Parameter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number that a rule compares with: what it is unless set otherwise, its unit and its meaning."""

    default: int | float
    unit: str
    meaning: str


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Made-up events and how many findings the rule makes of them with its default parameters."""

    name: str
    findings: int
    events: list[dict[str, Any]]
    start: str = "2026-11-03T10:00:00Z"


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sql: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    meaning: str
    severity: Literal["low", "medium", "high"]
    rule: _Body
    parameters: dict[str, Parameter] = {}
    tests: list[Trial] = []


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `id` is its file's name; `digest` the SHA-256 of the file's bytes in hex; `built_in` if it is ours."""

    id: str
    title: str
    meaning: str
    severity: str
    sql: str
    parameters: Mapping[str, Parameter]
    tests: tuple[Trial, ...]
    digest: str
    built_in: bool

    def query(self, since: dt.datetime, now: dt.datetime, settings: Mapping[str, int | float]) -> str:
        """Return the SQL with its parameters filled in. Raises: UsageError for a setting that the rule has not."""
        values = {name: repr(parameter.default) for name, parameter in self.parameters.items()}
        for name, value in settings.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise UsageError(f"Rule {self.id!r} has no parameter {name!r}.", do=f"It has: {known}.")
            values[name] = repr(value)
        moments = {"since": since, "now": now}
        values |= {name: f"TIMESTAMP '{_plain(moment)}'" for name, moment in moments.items()}
        return _PLACE.sub(lambda place: values[place[1]], self.sql)


def read_rule(path_name: str, data: bytes, *, built_in: bool = False) -> Rule:
    """Read one rule file; `path_name` is its name for messages, its stem the rule's id. Raises: UsageError."""
    stem = Path(path_name).stem
    if not _ID.fullmatch(stem):
        raise UsageError(f"{path_name}: {stem!r} is no rule id.", do="Use lower-case letters, digits and hyphens.")
    try:
        found = msgspec.toml.decode(data, type=_File)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, ValueError) as exc:
        raise UsageError(f"{path_name} is not a rule: {exc}.", do="docs/detections.md shows the form.") from exc
    for name in found.parameters:
        if not _NAME.fullmatch(name) or name in _GIVEN:
            raise UsageError(f"{path_name}: {name!r} is no name for a parameter.", do="Use lower-case letters and _.")
    unknown = {*_PLACE.findall(found.rule.sql)} - {*found.parameters, *_GIVEN}
    if unknown:
        raise UsageError(f"{path_name}: ${min(unknown)} stands for nothing.", do="Declare it under [parameters].")
    return Rule(
        id=stem,
        title=found.title,
        meaning=found.meaning,
        severity=found.severity,
        sql=found.rule.sql.strip(),
        parameters=found.parameters,
        tests=tuple(found.tests),
        digest=hashlib.sha256(data).hexdigest(),
        built_in=built_in,
    )


def load_rules(folders: Iterable[Path] = (), only: Iterable[str] = ()) -> tuple[Rule, ...]:
    """Return the built-in rules and those in `folders` (`*.toml`), by id; a later one replaces an earlier of its id.

    `only` keeps the rules of these ids. Raises: UsageError for a file that is no rule and for an id that is unknown.
    """
    rules: dict[str, Rule] = {}
    for item in files("klingai_audit.detect").joinpath(BUILT_IN).iterdir():
        if item.name.endswith(".toml"):
            rule = read_rule(item.name, item.read_bytes(), built_in=True)
            rules[rule.id] = rule
    for folder in folders:
        for path in _files_in(folder):
            rule = read_rule(str(path), path.read_bytes())
            rules[rule.id] = rule
    wanted = tuple(only)
    for name in wanted:
        if name not in rules:
            raise UsageError(f"There is no rule {name!r}.", do=f"There are: {', '.join(sorted(rules))}.")
    return tuple(rules[name] for name in sorted(rules) if not wanted or name in wanted)


def _files_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as exc:
        raise UsageError(f"{folder} cannot be read: {exc.strerror}.", do="Name a folder of *.toml rules.") from exc


def _plain(moment: dt.datetime) -> str:
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
