"""The self-checks S1 to S12: what this log can say of its own quality. The control table rests on them.

A check that the log cannot decide says so; it never passes by default.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Final, Literal

from klingai_audit.report.about import span_days
from klingai_audit.report.scope import Scope

__all__ = ["STATE_WORDS", "Check", "CheckState", "field_check", "run_checks"]

CheckState = Literal["passed", "partly", "failed", "not_configured", "not_checked"]

STATE_WORDS: Final[Mapping[CheckState, str]] = {
    "passed": "passed",
    "partly": "in part",
    "failed": "failed",
    "not_configured": "not configured",
    "not_checked": "not checked",
}
"""State of a check → how it is said."""

_NAMES: Final = {
    "S1": "Integrity",
    "S2": "Anchoring",
    "S3": "Completeness",
    "S4": "Reconciliation",
    "S5": "Field coverage",
    "S6": "Clocks",
    "S7": "Retention",
    "S8": "Access to the log",
    "S9": "Leakage",
    "S10": "Detection",
    "S11": "Logging failures",
    "S12": "Restore drill",
}
_MEANING: Final = {
    "S1": "every leaf, link, tree head and signature verifies",
    "S2": "an anchor outside the operator's control covers the period",
    "S3": "no hole in the sequence, no unexplained silence, every act has its outcome, every gap is closed",
    "S4": "the provider's records match the log",
    "S5": "entries hold the fields that they need",
    "S6": "clocks were not stepped and no event is dated after its sequencing",
    "S7": "records reach back as far as asked and no further than allowed",
    "S8": "who read, exported, unmasked, verified or purged is known",
    "S9": "no credential, e-mail address or prompt stands in the stored bytes",
    "S10": "rules look for what is odd, and their findings are known",
    "S11": "failures of logging are known, with their times",
    "S12": "a backup was restored and verified",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check: its state, why in words, and the questions it rests on."""

    id: str
    state: CheckState
    words: str
    queries: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    brief: str = ""

    @property
    def reason(self) -> str:
        """Why it did not pass, as the control table says it."""
        return f"{self.id} {self.state_words}: {self.brief or self.words}"

    @property
    def state_words(self) -> str:
        """The state as people read it."""
        return STATE_WORDS[self.state]

    def as_json(self) -> dict[str, Any]:
        """The members in the report's JSON."""
        return {
            "id": self.id,
            "name": _NAMES[self.id],
            "meaning": _MEANING[self.id],
            "state": self.state,
            "words": self.words,
            "evidence_query_ids": list(self.queries),
            "detail": dict(self.detail),
        }


def run_checks(scope: Scope, facts: Mapping[str, Any]) -> dict[str, Check]:
    """Return every check by id; `facts` are the sections of the report."""
    empty = scope.size == 0
    found = (
        _integrity(facts["integrity"], empty=empty),
        _anchoring(facts["anchors"]),
        _completeness(facts, empty=empty),
        _reconciliation(facts["reconciliation"], scope),
        field_check(facts["coverage"], ()),
        _clocks(facts["life"], empty=empty),
        _retention(facts["retention"], scope),
        _access(facts["access"]),
        _leakage(facts["leakage"]),
        _detection(facts["security"]),
        _failures(facts["life"], empty=empty),
        Check("S12", "not_configured", "No drill of restoring is recorded.", brief="no drill."),
    )
    return {check.id: check for check in found}


def _integrity(integrity: Mapping[str, Any], *, empty: bool) -> Check:
    if empty:
        return Check("S1", "not_checked", "The log has no entry.")
    if integrity["holds"]:
        return Check("S1", "passed", f"Entries, links, tree and signatures verify. {integrity['words']}")
    return Check("S1", "failed", integrity["words"], (), {"broken": integrity["broken_by_kind"]})


def _anchoring(found: Mapping[str, Any]) -> Check:
    if not found["total"]:
        words = "No witness and no time stamp authority is named in the period."
        return Check("S2", "not_configured", words, ("Q27",), brief="no anchor.")
    last = max(row["last"] for row in found["by_type"])[:10]
    named = _many(found["total"], "entry names", "entries name")
    brief = "whether an anchor is out of the operator's hands, the log cannot tell."
    words = f"{named} a witness or a time stamp, the newest on {last}; {brief}"
    return Check("S2", "partly", words, ("Q27",), {"entries": found["total"]}, brief)


def _completeness(facts: Mapping[str, Any], *, empty: bool) -> Check:
    queries = ("Q10", "Q11", "Q12", "Q21", "Q24", "Q28")
    if empty:
        return Check("S3", "not_checked", "The log has no entry.", queries)
    sequence, tasks, life = facts["sequence"], facts["tasks"], facts["life"]
    silences = len(facts["integrity"]["silences"])
    gaps = [
        _many(tasks["overdue"], "announced act has no outcome", "announced acts have no outcome"),
        _many(tasks["unknown"], "order has an unknown outcome", "orders have an unknown outcome"),
        _many(tasks["two_ends"], "task has two different ends", "tasks have two different ends"),
        _many(life["open_gaps"], "gap was not closed", "gaps were not closed"),
        _many(silences, "silence over an hour with a writer open", "silences over an hour with a writer open"),
    ]
    named = [gap for gap in gaps if gap]
    if sequence["missing"] or not facts["integrity"]["holds"]:
        missing = _many(sequence["missing"], "entry is missing", "entries are missing") or "the log is broken"
        return Check("S3", "failed", f"{_sentence([missing, *named])}", queries)
    listed = _many(tasks["open"], "open task is listed", "open tasks are listed")
    if named:
        return Check("S3", "partly", _sentence([*named, *([listed] if listed else [])]), queries)
    words = "No hole, no silence, no open gap; every announced act has its outcome."
    return Check("S3", "passed", f"{words} {_sentence([listed])}" if listed else words, queries)


def _reconciliation(found: Mapping[str, Any], scope: Scope) -> Check:
    last = found["last"]
    if last is None:
        return Check(
            "S4",
            "not_checked",
            "The log was never compared with the provider's records.",
            ("Q17",),
            brief="never done.",
        )
    when = f"compared on {last['timestamp'][:10]}"
    if last["timestamp"] < scope.since.strftime("%Y-%m-%dT%H:%M:%S.%fZ"):
        return Check("S4", "not_checked", f"The last comparison lies before the period: {when}.", ("Q17",))
    if last["outcome"] != "success" or last["unexplained"]:
        return Check("S4", "failed", f"Unexplained differences were found: {when}, entry {last['seq']}.", ("Q17",))
    words = f"No unexplained difference: {when}, entry {last['seq']}."
    if _covered(found["runs"], scope):
        return Check("S4", "passed", words, ("Q17",))
    return Check("S4", "partly", f"{words} Comparisons do not cover the whole period.", ("Q17",))


def _covered(runs: Sequence[Mapping[str, Any]], scope: Scope) -> bool:
    """Tell whether comparisons without differences reach over the period, but for its last day: ledgers lag."""
    spans = []
    for run in runs:
        if run["outcome"] == "success" and not run["unexplained"] and run["begin"] and run["end"]:
            with contextlib.suppress(ValueError, OverflowError):
                spans.append(
                    tuple(dt.datetime.fromisoformat(run[edge]).astimezone(dt.UTC) for edge in ("begin", "end"))
                )
    reached = scope.since
    for begin, end in sorted(spans):
        if begin > reached:
            break
        reached = max(reached, end)
    return reached >= scope.until - dt.timedelta(days=1)


def field_check(coverage: Mapping[str, Any], fields: Sequence[str]) -> Check:
    """Judge how many entries have each of `fields` (all of them if empty)."""
    share = {name: part for name, part in coverage["share"].items() if not fields or name in fields}
    if not coverage["entries"]:
        return Check("S5", "not_checked", "The period has no entry to look at.", ("Q23",))
    lacking = {name: part for name, part in share.items() if part is not None and part < 1}
    if not lacking:
        return Check("S5", "passed", f"Every entry has {', '.join(share)}.", ("Q23",), share)
    words = "; ".join(f"{name} in {_percent(part)} of entries" for name, part in lacking.items())
    state: CheckState = "failed" if min(lacking.values()) == 0 else "partly"
    return Check("S5", state, f"{words[0].upper()}{words[1:]}.", ("Q23",), share)


def _percent(part: float) -> str:
    # 99.97 % is not all of them.
    return f"{min(int(part * 1000) / 10, 99.9):g} %"


def _clocks(life: Mapping[str, Any], *, empty: bool) -> Check:
    queries = ("Q21", "Q22")
    if empty:
        return Check("S6", "not_checked", "The log has no entry.", queries)
    named = [
        _many(len(life["clock_steps"]), "clock step", "clock steps"),
        _many(life["ahead"], "event is dated after its sequencing", "events are dated after their sequencing"),
    ]
    if any(named):
        return Check("S6", "partly", _sentence([name for name in named if name]), queries)
    words = (
        "No step, no event dated after its sequencing. Where the machines take their time from, the log cannot tell."
    )
    return Check("S6", "passed", words, queries)


def _retention(found: Mapping[str, Any], scope: Scope) -> Check:
    days = span_days(found["oldest"], scope.until)
    least = found["required"]["min_days"]
    asked = f"; {found['required']['min_days_by']} asks for {least:,} days" if least else ""
    age = f"{days:,} {'day' if days == 1 else 'days'} old"
    detail = {"oldest_days": days, **found["required"]}
    queries = ("Q18", "Q19", "Q29")
    if found["state"] != "applied":
        words = f"Retention was never applied: nothing is purged. The oldest is {age}{asked}."
        return Check("S7", "not_configured", words, queries, detail, f"the oldest entry is {age}.")
    purged = _many(found["purged"], "entry is purged", "entries are purged") or "no entry is purged"
    holds = _many(len(found["holds"]), "hold is in force", "holds are in force") or "no hold is in force"
    words = f"Retention is applied: {purged}, each by an entry that lists it; {holds}. The oldest is {age}{asked}."
    return Check("S7", "partly", words, queries, detail, f"{purged}, {holds}.")


def _access(found: Mapping[str, Any]) -> Check:
    count = found["total"]
    words = f"{_many(count, 'entry tells', 'entries tell') or 'No entry tells'} of reads, exports, reports or checks"
    brief = "reading the files by other means leaves no entry."
    return Check("S8", "partly", f"{words}. {brief.capitalize()}", ("Q15", "Q16"), {"entries": count}, brief)


def _leakage(found: Mapping[str, Any]) -> Check:
    if not found["entries"]:
        return Check("S9", "not_checked", "The log has no entry.", ("Q25",))
    queries = ("Q25", "Q26")
    looked = f"{found['entries']:,} entries searched, {found['suspects']:,} of them looked at closely"
    if not found["total"] and not found["prompts"]:
        if found["too_many"]:
            return Check("S9", "partly", f"Too many entries look suspicious: {looked}.", queries)
        return Check("S9", "passed", f"None found: {looked}.", queries)
    named = [
        _many(found["total"], "entry holds a credential or an address", "entries hold a credential or an address"),
        _many(found["prompts"], "entry holds a prompt as text", "entries hold a prompt as text"),
    ]
    return Check("S9", "failed", f"{_sentence([name for name in named if name])} {looked}.", queries)


def _detection(security: Mapping[str, Any]) -> Check:
    if find_spec("klingai_audit.detect") is None:
        return Check("S10", "not_configured", "No rules are configured.", ("Q8",))
    alerts = sum(row["events"] for row in security["by_type"] if row["event_type"] == "suspicious_activity")
    words = f"{_many(alerts, 'finding was', 'findings were') or 'No finding was'} written in the period"
    brief = "when rules ran without a finding, the log does not tell."
    return Check("S10", "partly", f"{words}. {brief.capitalize()}", ("Q8",), brief=brief)


def _failures(life: Mapping[str, Any], *, empty: bool) -> Check:
    queries = ("Q20", "Q21")
    if empty:
        return Check("S11", "not_checked", "The log has no entry.", queries)
    closed = [gap["seconds"] for gap in life["gaps"] if gap["closed"] is not None]
    known = [
        _many(len(closed), f"gap was closed after {max(closed, default=0):g} s",
              f"gaps were closed, the longest after {max(closed, default=0):g} s"),
        _many(len(life["recoveries"]), "recovery", "recoveries"),
    ]  # fmt: skip
    told = _sentence([name for name in known if name])
    if life["open_gaps"]:
        open_gaps = _many(life["open_gaps"], "gap was not closed", "gaps were not closed")
        return Check("S11", "partly", _sentence([open_gaps, *(name for name in known if name)]), queries)
    return Check("S11", "passed", told or "No failure of logging in the log.", queries)


def _many(count: int, one: str, more: str) -> str:
    return "" if not count else f"{count:,} {one if count == 1 else more}"


def _sentence(parts: Sequence[str]) -> str:
    return f"{'; '.join(parts)}." if parts else ""
