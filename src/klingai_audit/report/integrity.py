"""What verification says, for a report: what holds of the entries that it covers, and apart from that what rests on
this machine (the key it trusts, the head it remembers, lines that came later).
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from klingai_audit.report.scope import Scope
from klingai_audit.trust.verdict import FINDING_KINDS, THREAT_WORDS, Finding, ThreatName, Verdict

__all__ = ["describe", "describe_machine"]

_LISTED: Final = 50
_BY_TREE: Final[tuple[ThreatName, ...]] = ("edit", "insert", "delete", "reorder", "head_cut", "tail_cut")
_OPEN: Final[dict[ThreatName, str]] = {
    "fork": "others may have been shown another history: give signed checkpoints to somebody else",
    "back_dating": "times never decrease, but the writer's clock itself is not proven: have checkpoints time-stamped",
    "key_holder": "whoever holds all keys can sign another history: give signed checkpoints to somebody else",
    "key_theft": "a thief of the present keys can sign anew what the current epoch signed",
    "quantum": "what is signed by Ed25519 alone, a large quantum computer could forge",
}
_BY_MACHINE: Final[tuple[ThreatName, ...]] = ("rollback", "foreign_key")


def describe(verdict: Verdict, scope: Scope) -> dict[str, Any]:
    """Return what holds of the first `scope.size` entries, whoever verifies and however far the log has grown."""
    listed = verdict.unlisted or verdict.findings
    broken = [finding for finding in listed if finding.severity == "broken" and _concerns(finding, scope.size)]
    silences = [
        finding for finding in listed if finding.kind == "heartbeat_gap" and (finding.seq_end or 0) < scope.size
    ]
    return {
        "holds": not broken,
        "words": _words(broken, scope),
        "tree_size": scope.size,
        "root": scope.root,
        "broken": [finding.as_json() for finding in broken[:_LISTED]],
        "broken_by_kind": dict(sorted(Counter(finding.kind for finding in broken).items())),
        "silences": [finding.as_json() for finding in silences],
        "threats": [_threat(name, broken, verdict, scope) for name in THREAT_WORDS if name not in _BY_MACHINE],
    }


def describe_machine(verdict: Verdict) -> dict[str, Any]:
    """Return what the verdict owes to this machine and this moment."""
    return {
        "key": verdict.key,
        "key_source": verdict.key_source,
        "custody": None if verdict.custody is None else dict(verdict.custody.words()),
        "signed_entries": verdict.size,
        "unsigned_entries": verdict.unsigned.entries,
        "findings": len(verdict.findings),
        "threats": [
            {"threat": threat.threat, "words": THREAT_WORDS[threat.threat], "state": threat.state, "by": threat.by}
            for threat in verdict.threats
            if threat.threat in _BY_MACHINE or (threat.threat in _OPEN and threat.state == "ruled_out")
        ],
    }


def _concerns(finding: Finding, size: int) -> bool:
    """Tell whether a finding is about the entries that the report covers; one about a file is."""
    if finding.kind in ("unsigned_tail", "torn_tail"):
        return False
    return finding.seq is None or finding.seq < size


def _words(broken: list[Finding], scope: Scope) -> str:
    if not scope.size and not broken:
        return "The log is empty."
    entries = f"{scope.size:,} {'entry' if scope.size == 1 else 'entries'}"
    if not broken:
        return f"No change found in {entries}."
    kinds = Counter(finding.kind for finding in broken)
    meaning = FINDING_KINDS[broken[0].kind].meaning
    number = f"{len(broken):,} finding{'' if len(broken) == 1 else 's'}"
    more = f" and {len(kinds) - 1} more kinds" if len(kinds) > 1 else ""
    return f"Broken: {number} in {entries}. {meaning.rstrip('.')} ({broken[0].kind}){more}."


def _threat(name: ThreatName, broken: list[Finding], verdict: Verdict, scope: Scope) -> dict[str, str]:
    shown = [finding for finding in broken if name in FINDING_KINDS[finding.kind].threats]
    state = verdict.threat(name).state
    if shown:
        state, by = "detected", f"{shown[0].kind}: {shown[0].message}"
    elif name in _BY_TREE and not broken:
        state, by = "ruled_out", f"all {scope.size:,} entries hash into the root that is signed"
    elif name in _BY_TREE:
        by = "the entries are not those that were signed, so this cannot be told"
    elif state == "ruled_out":
        by = "by evidence outside the log: the section about the machine says which"
    else:
        by = _OPEN[name]
    return {"threat": name, "words": THREAT_WORDS[name], "state": state, "by": by}
