"""`detect`: look for what is odd, and tell of each finding once."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from klingai_audit.cli.progress import progress_bar
from klingai_audit.cli.session import Session, SessionArgument
from klingai_audit.cli.sources import open_index
from klingai_audit.errors import UsageError
from klingai_audit.views.inert import inert

if TYPE_CHECKING:
    from klingai_audit.detect.engine import Found
    from klingai_audit.detect.rules import Rule

RULES_FOLDER: Final = "rules"
"""Folder under the keys folder whose `*.toml` rules are used without being named."""

_SETTING: Final = re.compile(r"([a-z][a-z0-9-]*)\.([a-z][a-z_]*)=(-?[0-9]+(?:\.[0-9]+)?)", re.ASCII)
_SHOWN: Final = 8
_SEVERITY_STYLES: Final = {"low": "cyan", "medium": "yellow", "high": "red"}


def detect(
    *,
    rule: Annotated[tuple[str, ...], Parameter(help="Only the rule of this id; may be repeated.")] = (),
    rules: Annotated[
        tuple[Path, ...], Parameter(help="A folder with rules of yours (*.toml), beside <keys>/rules; may be repeated.")
    ] = (),
    set: Annotated[tuple[str, ...], Parameter(help="rule.parameter=number; may be repeated.")] = (),
    since: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="Only findings from this time on: -30d, 2026-11-21.")
    ] = None,
    record: Annotated[
        bool, Parameter(help="Write one entry suspicious_activity for each finding that the log does not hold yet.")
    ] = False,
    list: Annotated[bool, Parameter(help="Show the rules instead of running them.")] = False,
    test: Annotated[bool, Parameter(help="Try each rule on its own made-up events instead.")] = False,
    session: SessionArgument,
) -> int:
    """Run detection rules over the log. Exit 1 if there is a finding that the log did not hold yet."""
    from klingai_audit.detect.rules import load_rules
    from klingai_audit.views.times import parse_instant

    own = session.places.keys / RULES_FOLDER
    chosen = load_rules([*([own] if own.is_dir() else []), *rules], rule)
    if list:
        _list(session, chosen)
        return 0
    if test:
        return _test(session, chosen)
    now = dt.datetime.now(dt.UTC)
    begin = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) if since is None else parse_instant(since, edge="since", now=now)
    found, fresh, size = _run(session, chosen, begin, now, _settings(set), record=record)
    if session.as_json:
        new = {one.id for one in fresh}
        session.emit(
            {
                "tree_size": size,
                "rules": [one.id for one in chosen],
                "findings": [{**one.to_json(), "new": one.id in new} for one in found],
                "new": len(fresh),
                "recorded": record,
            }
        )
    else:
        _draw(session, chosen, found, fresh, size, record=record)
    return 1 if fresh else 0


def _run(
    session: Session,
    rules: Sequence[Rule],
    since: dt.datetime,
    now: dt.datetime,
    settings: Mapping[str, Mapping[str, int | float]],
    *,
    record: bool,
) -> tuple[Sequence[Found], Sequence[Found], int]:
    """Return what is found, which of it is new, and the number of entries that were looked at."""
    from klingai_audit.cli.recording import reader_id
    from klingai_audit.cli.session import open_log
    from klingai_audit.config import open_reader
    from klingai_audit.detect.engine import known_findings, only_detector, record_findings, run_rules
    from klingai_audit.event.context import acting

    with ExitStack() as stack:
        audit = None
        if record:
            stack.enter_context(only_detector(session.places.state))
            audit = stack.enter_context(open_log(session))
        reader = open_reader(session.places) if audit is None else audit.reader
        index = stack.enter_context(closing(open_index(session, reader)))
        progress = stack.enter_context(progress_bar(session, "detecting", "rules"))
        found = run_rules(index, rules, since=since, now=now, settings=settings, progress=progress)
        known = known_findings(index)
        fresh = [one for one in found if one.id not in known]
        if audit is not None:
            with acting(reader_id()):
                record_findings(audit, fresh, index.size)
        return found, fresh, index.size


def _settings(given: Sequence[str]) -> dict[str, dict[str, int | float]]:
    settings: dict[str, dict[str, int | float]] = {}
    for text in given:
        found = _SETTING.fullmatch(text)
        if found is None:
            raise UsageError(f"--set {text!r} is no setting.", do="Use one such as refusal-burst.refusals=5")
        number = float(found[3]) if "." in found[3] else int(found[3])
        settings.setdefault(found[1], {})[found[2]] = number
    return settings


def _list(session: Session, rules: Sequence[Rule]) -> None:
    for rule in rules:
        if session.as_json:
            session.emit(
                {
                    "rule": rule.id,
                    "title": rule.title,
                    "meaning": rule.meaning,
                    "severity": rule.severity,
                    "parameters": {name: one.default for name, one in rule.parameters.items()},
                    "digest": rule.digest,
                    "built_in": rule.built_in,
                }
            )
            continue
        session.say((inert(rule.id), "bold"), "  ", (rule.severity, _SEVERITY_STYLES[rule.severity]))
        session.say(f"  {inert(rule.title)}. {inert(rule.meaning)}")
        for name, one in rule.parameters.items():
            session.say((f"  {rule.id}.{name} = {one.default} {inert(one.unit)}: {inert(one.meaning)}", "dim"))


def _test(session: Session, rules: Sequence[Rule]) -> int:
    """Try each rule on its own events; 1 if one finds otherwise than it says, or has no test."""
    from klingai_audit.detect.trials import try_rule

    wrong = 0
    for rule in rules:
        for trial in rule.tests:
            found = try_rule(rule, trial)
            good = found == trial.findings
            wrong += not good
            if session.as_json:
                session.emit({"rule": rule.id, "test": trial.name, "expected": trial.findings, "found": found})
                continue
            sign = ("good   ", "green") if good else ("WRONG  ", "bold red")
            session.say(sign, inert(rule.id), f": {inert(trial.name)}", f" ({found} of {trial.findings} findings)")
        if not rule.tests:
            wrong += 1
            session.remark(
                f"Rule {rule.id} has no [[tests]]: nothing shows that it finds anything.", rule=rule.id, tests=0
            )
    return 1 if wrong else 0


def _draw(
    session: Session, rules: Sequence[Rule], found: Sequence[Found], fresh: Sequence[Found], size: int, *, record: bool
) -> None:
    new = {one.id for one in fresh}
    for one in found:
        seqs = ", ".join(map(str, one.seqs[:_SHOWN])) + ("" if len(one.seqs) <= _SHOWN else ", …")
        who = " ".join(inert(word) for word in (one.actor_id, one.team) if word)
        session.say(
            (f"{one.rule.severity:<6} ", _SEVERITY_STYLES[one.rule.severity]),
            (inert(one.rule.title), "bold"),
            "" if one.id in new else (" (in the log already)", "dim"),
        )
        session.say(f"       {inert(one.what)}", (f"  {who}" if who else "", "cyan"), (f"  entries {seqs}", "dim"))
    tried = "1 rule" if len(rules) == 1 else f"{len(rules)} rules"
    many = "1 new finding" if len(fresh) == 1 else f"{len(fresh)} new findings"
    session.say(f"{tried} over {size:,} entries: {many}, {len(found) - len(fresh)} known.")
    if fresh:
        words = "Each new finding was recorded." if record else "Not recorded in the log (--record does)."
        session.remark(words)
