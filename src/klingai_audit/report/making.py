"""From a log to a report: verification, scan, questions, checks, controls, in this order."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klingai_audit.durable import OPS
from klingai_audit.errors import UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.report import about, controls, data, integrity
from klingai_audit.report.ask import Asker, Rows
from klingai_audit.report.checks import run_checks
from klingai_audit.report.inventory import inventory
from klingai_audit.report.leaks import leakage
from klingai_audit.report.processing import FRAMEWORK, processing
from klingai_audit.report.scope import FORMATS, Format, People, Scope, instant, make_scope
from klingai_audit.report.summary import summarise
from klingai_audit.tlog.merkle import root_at
from klingai_audit.tlog.tile import node_reader
from klingai_audit.views import entry

if TYPE_CHECKING:
    from klingai_audit.config import Places
    from klingai_audit.log import AuditLog
    from klingai_audit.privacy.subjects import SubjectTable
    from klingai_audit.trust.verdict import Verdict

__all__ = ["Rendered", "Report", "build", "compose", "format_of"]

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Rendered:
    """A report's bytes, and the SHA-256 of the part of them that anyone with the log can make again."""

    data: bytes
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says, before it is drawn. `facts` follow from the log; `machine` is what this machine adds to them.

    `machine` is None for a report that was asked for at a tree size: that one has the same bytes wherever it is made.
    """

    scope: Scope
    facts: Mapping[str, Any]
    machine: Mapping[str, Any] | None = None
    note: Callable[[Mapping[str, Any]], None] | None = field(default=None, repr=False, compare=False)
    """Records that the report was made; None where this process holds no writer."""

    _drawn: dict[Format, bytes] = field(default_factory=dict, repr=False, compare=False)

    def digest(self, format: Format) -> str:
        """Return the SHA-256, in hex, of the part that anyone with the log can make again. Raises: MissingExtra."""
        from klingai_audit.report.faces import draw

        if format not in self._drawn:
            self._drawn[format] = draw(self.scope, self.facts, format)
        return hashlib.sha256(self._drawn[format]).hexdigest()

    def render(self, format: Format, *, recorded: bool | None = None) -> Rendered:
        """Draw the report; `recorded` tells whether it became an entry of the log. Raises: MissingExtra (html, pdf)."""
        from klingai_audit.report.faces import draw

        digest, plain = self.digest(format), self._drawn[format]
        if self.machine is None or format == "csv":
            return Rendered(plain, digest)
        machine = {**self.machine, "sha256_without_this_section": digest, "recorded": bool(recorded)}
        return Rendered(draw(self.scope, {**self.facts, "this_machine": machine}, format), digest)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        machine = {} if self.machine is None else {"this_machine": dict(self.machine)}
        return {**self.facts, **machine}

    def save(self, path: str | Path) -> str:
        """Write the report to a file, whose name tells the format, and return its digest.

        A report of `build` first becomes an entry (`report_generated`); `this_machine` says whether it did.
        Raises: UsageError, MissingExtra; AuditUnavailable if it cannot be recorded: then nothing is written.
        """
        form = format_of(path)
        if self.note is not None:
            told = {"made": self.scope.command, "format": form, "sha256": self.digest(form)}
            self.note({**told, "tree_size": self.scope.size, "integrity_ok": self.facts["integrity"]["holds"]})
        rendered = self.render(form, recorded=self.note is not None)
        OPS.replace(Path(path), rendered.data, mode=0o644)
        return rendered.digest


def format_of(path: str | Path) -> Format:
    """Return the format that a file's name tells. Raises: UsageError."""
    suffix = Path(path).suffix.lower().removeprefix(".")
    for name in FORMATS:
        if suffix in (name, "htm" if name == "html" else name):
            return name
    raise UsageError(
        f"A report cannot be written as {Path(path).name!r}.", do=f"Give a name that ends in .{', .'.join(FORMATS)}"
    )


def build(
    audit: AuditLog,
    *,
    days: int = 90,
    until: str | dt.datetime | dt.date | None = None,
    at: int | None = None,
    frameworks: Sequence[str] | None = None,
    high_risk: bool = False,
    people: People = "mask",
    by: str | None = None,
    now: dt.datetime | None = None,
) -> Report:
    """Report on an open log: what was done in the last `days` days before `until`, and what the log shows of itself.

    `at` limits the report to the first so many entries, so that it can be made again. `frameworks` are names of
    `klingai_audit.report.scope.FRAMEWORKS` (default: all); naming one declares that it applies. `high_risk` declares a
    high-risk use under the EU AI Act. `people` shows masks or pseudonyms. `by` is who asks for it (default: who is
    acting); `save` records it. `now` is for tests.
    Raises: UsageError; LogNotFound; AuditUnavailable.
    """
    verdict = audit.verify(compare=False)
    made = compose(
        audit.reader,
        verdict,
        audit.index.rows,
        audit.subjects,
        days=days,
        until=until,
        at=at,
        frameworks=frameworks,
        high_risk=high_risk,
        people=people,
        now=now,
        places=audit.places,
    )

    def note(metadata: Mapping[str, Any]) -> None:
        about = {"resource_type": "log", "resource_id": audit.origin, "action": "report"}
        audit.log("report_generated", by, **about, metadata=metadata).wait("published")

    return replace(made, note=note)


def compose(
    reader: LogReader,
    verdict: Verdict,
    rows: Rows,
    subjects: SubjectTable | None,
    *,
    days: int = 90,
    until: str | dt.datetime | dt.date | None = None,
    at: int | None = None,
    frameworks: Sequence[str] | None = None,
    high_risk: bool = False,
    people: People = "mask",
    now: dt.datetime | None = None,
    places: Places | None = None,
) -> Report:
    """Make a report from its parts: a reader, a verdict on the whole log, the index, the table of people or None.

    `places` are searched for the records of processing, where `gdpr` is named. Other arguments as for `build`.
    """
    moment = now or dt.datetime.now(dt.UTC)
    scope = make_scope(
        days=days,
        until=until,
        at=at,
        size=min(reader.size, verdict.size) if verdict.integrity_ok else reader.size,
        root_at=lambda size: root_at(size, node_reader(reader.store.read_hashes)),
        origin=reader.origin,
        people=people if subjects is not None else "pseudonym",
        frameworks=frameworks,
        high_risk=high_risk,
        now=moment,
    )
    facts = _gather(reader, verdict, rows, entry.People(subjects), scope)
    machine = None if at is not None else _machine(verdict, moment, subjects is not None)
    if machine is not None and places is not None and FRAMEWORK in scope.frameworks:
        machine["processing"] = inventory(places, subjects)
    return Report(scope, facts, machine)


def _gather(
    reader: LogReader,
    verdict: Verdict,
    rows: Rows,
    people: entry.People,
    scope: Scope,
) -> dict[str, Any]:
    ask = Asker(rows, scope)
    totals = data.totals(ask)
    for row in totals["by_actor"]:
        stored = row["actor_id"]
        row["actor"] = stored if stored is None or scope.people == "pseudonym" else people.mask(stored)
    sections: dict[str, Any] = {
        "integrity": integrity.describe(verdict, scope),
        "totals": totals,
        "activity": data.activity(ask, scope),
        "models": data.models(ask),
        "costs": data.costs(ask),
        "security": data.security(ask, people, scope),
        "tasks": data.opened(ask, people, scope),
        "administration": data.administration(ask, people, scope),
        "access": about.access(ask, people, scope),
        "reconciliation": about.reconciliation(ask),
        "retention": {**about.retention(ask, reader, verdict.purged), "required": controls.strictest(scope)},
        "life": about.life(ask),
        "coverage": about.coverage(ask),
        "sequence": about.sequence(ask, verdict.purged),
        "anchors": about.anchors(ask),
        "leakage": leakage(reader, ask, scope.size),
    }
    if FRAMEWORK in scope.frameworks:
        sections["processing"] = processing(reader, ask, people, scope, sections)
    checks = run_checks(scope, sections)
    events = data.by_name(totals["by_type"])
    rows_of_controls = controls.judge(scope, checks, events, sections["coverage"], sections["retention"]["oldest"])
    sections["controls_by_verdict"] = controls.count(rows_of_controls)
    return {
        "format": FORMAT,
        "made_by": f"klingai-audit {version('klingai-audit')}",
        "period_days": scope.days,
        "total_events": totals["events"],
        "event_types": {row["event_type"]: row["events"] for row in totals["by_type"]},
        "unique_actors": len(totals["by_actor"]),
        "actors": {row["actor_id"]: row["events"] for row in totals["by_actor"]},
        "first_event": totals["first"],
        "last_event": totals["last"],
        "period": {"since": instant(scope.since), "until": instant(scope.until)},
        "log": {"origin": scope.origin, "tree_size": scope.size, "root": scope.root},
        "command": scope.command,
        "people": scope.people,
        "frameworks": controls.describe(scope),
        "summary": summarise(sections, checks),
        **sections,
        "checks": [check.as_json() for check in checks.values()],
        "controls": rows_of_controls,
        "queries": [question.as_json() for question in ask.questions],
    }


def _machine(verdict: Verdict, moment: dt.datetime, readable: bool) -> dict[str, Any]:  # noqa: FBT001  # one fact
    return {
        "made_at": instant(moment.replace(microsecond=0)),
        "log": verdict.log,
        "subject_table": "read" if readable else "not readable: people are shown as pseudonyms",
        **integrity.describe_machine(verdict),
    }
