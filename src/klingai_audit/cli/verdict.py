"""A verdict drawn for people: what it establishes and what not, threat by threat, and every finding with its place.

Works on the JSON form of a verdict (docs/format.md), so that people and programs see the same facts.
"""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from klingai_audit.trust.verdict import THREAT_WORDS
from klingai_audit.views.inert import inert

_MOST_PURGES: Final = 12
_STATES: Final = {
    "ruled_out": ("ruled out", "green"),
    "detected": ("DETECTED", "bold red"),
    "not_ruled_out": ("not ruled out", "yellow"),
    "not_checked": ("not checked", "dim"),
}
_KEY_SOURCES: Final = {
    "option": "the key you gave",
    "remembered": "the key this machine remembers",
    "keys folder": "the key in the keys folder",
    "first use": "the log's own claim of its key, trusted because you said so",
}


def headline(verdict: dict[str, Any]) -> Text:
    """Return the one-line verdict: the result, what it rests on, and what it does not establish."""
    total = verdict["total"]
    scope = "this file" if verdict.get("scope") == "file" else "the log"
    count = f"{total:,} {'entry' if total == 1 else 'entries'}"
    if not verdict["integrity_ok"]:
        broken = [finding for finding in verdict["findings"] if finding["severity"] == "broken"]
        number = f"{len(broken)} finding{'' if len(broken) == 1 else 's'}"
        return Text.assemble(
            ("BROKEN", "bold red"),
            f": {number} in {scope} of {count}. Do not repair anything; copy the files as they are, then read below.",
        )
    if verdict.get("scope") == "file":
        return Text.assemble(
            ("The links hold", "bold green"),
            f" in this file of {count}. No signature was checked: whoever edits can compute links anew. "
            "Nothing is said about other files or the end of the log.",
        )
    return Text.assemble(
        ("No change found", "bold green"), f" in the log of {count}, {_basis(verdict)}. {_limits(verdict)}"
    )


def _basis(verdict: dict[str, Any]) -> str:
    key = verdict.get("key") or {}
    if not key.get("vkey"):
        return "judged by nothing but its own claim of its key"
    source = key.get("source") or "a key"
    return f"judged by {inert(_KEY_SOURCES.get(source, source))}"


def _limits(verdict: dict[str, Any]) -> str:
    parts = []
    quick_from = verdict.get("quick_from")
    if quick_from:
        parts.append(f"Entries before {quick_from:,} were checked by an earlier run, not now.")
    unsigned = (verdict.get("unsigned") or {}).get("entries", 0)
    if unsigned:
        parts.append(f"{unsigned:,} at the end are not signed yet.")
    open_threats = [
        THREAT_WORDS.get(threat["threat"], threat["threat"])
        for threat in verdict["threats"]
        if threat["state"] == "not_ruled_out"
    ]
    if open_threats:
        parts.append(f"Not ruled out: {'; '.join(open_threats)}.")
    parts.append("It cannot tell what the log never saw.")
    return " ".join(parts)


def threat_table(verdict: dict[str, Any]) -> Table:
    """Return one row per threat: state, by what, and what to do where it is not ruled out."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("threat", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("by what → what to do", overflow="fold")
    above = ""
    for threat in verdict["threats"]:
        state, style = _STATES.get(threat["state"], (threat["state"], ""))
        reason = " → ".join(inert(threat[name]) for name in ("by", "do") if threat.get(name))
        reason, above = ("as above" if reason and reason == above else reason), reason
        words = THREAT_WORDS.get(threat["threat"], threat["threat"])
        table.add_row(Text(inert(words)), Text(inert(state), style=style), Text(reason))
    return table


def finding_lines(verdict: dict[str, Any]) -> list[Text]:
    """Return one line per finding: severity, kind, place, message; broken ones first."""
    findings = sorted(verdict["findings"], key=lambda finding: finding["severity"] != "broken")
    return [
        Text.assemble(
            ("broken  ", "bold red") if finding["severity"] == "broken" else ("note    ", "cyan"),
            (inert(finding["kind"]), "bold"),
            f"  {place_of(finding)}  {inert(finding['message'])}",
        )
        for finding in findings
    ]


def purged_lines(verdict: dict[str, Any]) -> list[Text]:
    """Return what is purged, a line for each entry that the purged lines name as their authority."""
    purged = verdict.get("purged") or []
    by: dict[int, list[tuple[int, int]]] = {}
    for run in purged:
        by.setdefault(run["by"], []).append((run["seq"], run["seq_end"]))
    checked = "authorised by" if verdict["integrity_ok"] and verdict.get("scope") != "file" else "as they say by"
    lines = []
    for seq, runs in sorted(by.items())[:_MOST_PURGES]:
        count = sum(end - begin for begin, end in runs)
        what = f"{count:,} {'entry' if count == 1 else 'entries'}"
        lines.append(
            Text.assemble(
                ("purged  ", "cyan"),
                f"{what} from seq {runs[0][0]} to {runs[-1][1] - 1}, {checked} entry {seq}; their leaf hashes stand.",
            )
        )
    if len(by) > len(lines):
        lines.append(Text(f"        … and by {len(by) - len(lines):,} more entries: --json names all."))
    return lines


def erased_lines(verdict: dict[str, Any]) -> list[Text]:
    """Return how many people were erased, and by which entries; nothing if nobody was."""
    erased = verdict.get("erased") or []
    if not erased:
        return []
    shown = ", ".join(str(one["seq"]) for one in erased[:_MOST_PURGES])
    more = f" and {len(erased) - _MOST_PURGES:,} more" if len(erased) > _MOST_PURGES else ""
    noun, entries = ("subject", "entry") if len(erased) == 1 else ("subjects", "entries")
    words = f"{len(erased):,} {noun} erased ({entries} {shown}{more}); their entries stand, and lead to nobody."
    return [Text.assemble(("erased  ", "cyan"), words)]


def custody_lines(verdict: dict[str, Any]) -> list[Text]:
    """Return where each private key lies, empty if the verdict does not say."""
    from klingai_audit.ledger.custody import Custody

    custody = verdict.get("custody")
    if not custody:
        return []
    words = Custody(custody["log_key"], custody["epoch_key"], custody.get("mldsa_key")).words()
    return [Text(""), *(Text.assemble((f"{key}: ", "bold"), where) for key, where in words)]


def place_of(finding: dict[str, Any]) -> str:
    """Return where a finding is, as narrow as known: seq or range of seq, file and line."""
    seq, end = finding.get("seq"), finding.get("seq_end")
    parts = []
    if seq is not None:
        # seq_end is exclusive.
        parts.append(f"seq {seq}" if end is None or end <= seq + 1 else f"seq {seq}–{end - 1}")
    if finding.get("file"):
        line = finding.get("line")
        parts.append(inert(finding["file"]) + (f":{line}" if line is not None else ""))
    return ", ".join(parts) or "the log"
