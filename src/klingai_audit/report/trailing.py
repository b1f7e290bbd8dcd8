"""Sections about the log and what it shows: reconciliation, access, retention, checks, controls, questions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any, Final

from klingai_audit.report import charts, records
from klingai_audit.report.blocks import (
    MAX_ROWS,
    Block,
    Cell,
    Mono,
    Section,
    Tone,
    cell,
    chart,
    facts,
    moment,
    note,
    number,
    shown,
    table,
)
from klingai_audit.report.controls import VERDICTS
from klingai_audit.report.sections import source_of

__all__ = ["VERDICT_WORDS", "make_sections"]

VERDICT_WORDS: Final[dict[str, tuple[str, Tone]]] = {
    "supported": ("supported", "good"),
    "partly": ("partly", "warn"),
    "not_supported": ("not supported", "bad"),
    "needs_human": ("needs a human", "human"),
    "out_of_scope": ("out of scope", "dim"),
}
"""Verdict on a control → how it is said."""
_CHECKS: Final[dict[str, tuple[str, Tone]]] = {
    "passed": ("passed", "good"),
    "partly": ("in part", "warn"),
    "failed": ("failed", "bad"),
    "not_configured": ("not configured", "dim"),
    "not_checked": ("not checked", "dim"),
}


_OVER: Final = {
    "period": "distinct events of the period",
    "log": "distinct events of the log",
    "all": "all entries of the log",
}


def make_sections(data: Mapping[str, Any]) -> list[Section]:
    """Return the sections in their order."""
    parts = [
        _reconciliation(data),
        _access(data),
        _administration(data),
        _retention(data),
        _life(data),
        *([records.section(data)] if "processing" in data else []),
        _checks(data),
        _controls(data),
        _questions(data),
        _again(data),
    ]
    return [*parts, _machine(data["this_machine"])] if "this_machine" in data else parts


def _reconciliation(data: Mapping[str, Any]) -> Section:
    found = data["reconciliation"]
    if found["last"] is None:
        lead = (
            "Never: the log was not compared with the provider's task lists and ledgers, so calls made around "
            "it do not show."
        )
        return Section("reconciliation", "Reconciliation with the provider", lead)
    last = found["last"]
    words = "no unexplained difference" if last["outcome"] == "success" else "unexplained differences"
    lead = f"Last compared on {moment(last['timestamp'])} UTC (entry {number(last['seq'])}): {words}."
    rows = [
        [
            number(run["seq"]),
            moment(run["timestamp"]),
            cell(run["outcome"], "good" if run["outcome"] == "success" else "bad"),
            f"{moment(run['begin'], seconds=False)} to {moment(run['end'], seconds=False)}",
            shown(", ".join(f"{number(count)} {name}" for name, count in run["counts"].items()), 240),
        ]
        for run in found["runs"][:MAX_ROWS]
    ]
    block = table(
        "Comparisons",
        ["Entry>", "Time (UTC)", "Outcome", "Tasks of (UTC)", "Counts"],
        rows,
        source=source_of(data, "Q17"),
    )
    return Section("reconciliation", "Reconciliation with the provider", lead, [block])


def _access(data: Mapping[str, Any]) -> Section:
    found = data["access"]
    lead = (
        "Reads, exports, reports and checks that were recorded. A read is recorded where it was asked for or "
        "policy demands it; "
        "reading the files by other means leaves no entry."
    )
    counts = table(
        "By type and actor",
        ["Type", "Actor", "Entries>", "Last (UTC)"],
        [
            [cell(row["event_type"]), cell(row["actor"]), number(row["events"]), moment(row["last"])]
            for row in found["by_type"][:MAX_ROWS]
        ],
        source=source_of(data, "Q15"),
        total=len(found["by_type"]),
        empty="No entry about access to the log in the period.",
    )
    return Section("access", "Access to the log itself", lead, [counts])


def _administration(data: Mapping[str, Any]) -> Section:
    found = data["administration"]
    rows = [
        [
            number(row["seq"]),
            moment(row["timestamp"]),
            cell(row["event_type"]),
            cell(row["actor"]),
            shown("/".join(filter(None, (row["resource_type"], row["resource_id"]))), 48),
        ]
        for row in found["latest"]
    ]
    block = table(
        "Newest",
        ["Entry>", "Time (UTC)", "Type", "By", "What"],
        rows,
        source=source_of(data, "Q14"),
        total=found["total"],
        empty="No administrative act in the period.",
    )
    counts = ", ".join(f"{number(row['events'])} {row['event_type']}" for row in found["by_type"])
    return Section("administration", "Administration", f"{shown(counts, 400)}." if counts else "", [block])


def _retention(data: Mapping[str, Any]) -> Section:
    found = data["retention"]
    need = found["required"]
    keep = (
        f"{number(need['min_days'])} days, by {need['min_days_by']}"
        if need["min_days"]
        else "no framework asks for a period"
    )
    hot = f"{number(need['hot_days'])} days, by {need['hot_days_by']}" if need["hot_days"] else "none asked for"
    pairs: list[tuple[str, object]] = [
        ("Retention", _applied(found)),
        ("Oldest entry", moment(found["oldest"])),
        ("Newest entry", moment(found["newest"])),
        ("Longest period asked for", keep),
        ("Longest period at hand", hot),
        (
            "Purges, holds, erasures",
            ", ".join(f"{number(row['events'])} {row['event_type']}" for row in found["acts"]) or "none",
        ),
    ]
    if found["purges"]:
        by = ", ".join(f"{number(row['entries'])} by entry {row['by']}" for row in found["purges"])
        pairs.append(("Purged, and by which entry", shown(by, 400)))
    if found["holds"]:
        pairs.append(("Holds in force", shown(", ".join(row["name"] for row in found["holds"]), 400)))
    return Section("retention", "Retention", "", [facts("", pairs, source=source_of(data, "Q18", "Q19", "Q29"))])


def _applied(found: Mapping[str, Any]) -> str:
    if found["state"] != "applied":
        return "not applied yet: nothing was purged or sealed"
    if not found["purged"]:
        return "applied: days are sealed, nothing was purged"
    return f"applied: {number(found['purged'])} entries purged, their leaf hashes stand"


def _life(data: Mapping[str, Any]) -> Section:
    life = data["life"]
    pairs: list[tuple[str, object]] = [
        (
            "Own entries in the period",
            ", ".join(f"{number(r['events'])} {r['event_type']}" for r in life["by_type"]) or "none",
        ),
        ("Gaps in recording", f"{number(len(life['gaps']))}, of which {number(life['open_gaps'])} open"),
        ("Recoveries", number(len(life["recoveries"]))),
        ("Clock steps", number(len(life["clock_steps"]))),
        ("Events dated over 5 s after their sequencing", number(life["ahead"])),
    ]
    return Section("life", "The log's own life", "", [facts("", pairs, source=source_of(data, "Q20", "Q21", "Q22"))])


def _checks(data: Mapping[str, Any]) -> Section:
    rows = []
    for check in data["checks"]:
        words, tone = _CHECKS[check["state"]]
        about = check["evidence_query_ids"]
        rows.append(
            [
                Cell(check["id"], "dim"),
                cell(check["name"]),
                Cell(words, tone),
                shown(check["words"], 400),
                ", ".join(about) or "–",
            ]
        )
    blocks = [table("", ["", "Check", "State", "Why", "Questions"], rows, widths=(6, 17, 15, 46, 16))]
    coverage = data["coverage"]
    if coverage["entries"]:
        blocks.append(_coverage(data))
    lead = "What this log can say of its own quality. A check that it cannot decide does not pass."
    return Section("checks", "Self-checks", lead, blocks)


def _coverage(data: Mapping[str, Any]) -> Block:
    rows = data["coverage"]["by_type"]
    names = list(data["coverage"]["fields"])
    return table(
        "Entries that hold each field (S5)",
        ["Type", "Entries>", *(f"{name}>" for name in names)],
        [
            [
                cell(row["event_type"]),
                number(row["entries"]),
                *(_share(row["fields"][name], row["entries"]) for name in names),
            ]
            for row in rows[:MAX_ROWS]
        ],
        source=source_of(data, "Q23"),
        total=len(rows),
    )


def _share(count: int, entries: int) -> Cell:
    if count == entries:
        return Cell("100 %")
    # 99.97 % is not all of them.
    return Cell(f"{min(int(1000 * count / entries) / 10, 99.9):g} %", "warn")


def _controls(data: Mapping[str, Any]) -> Section:
    counts = data["controls_by_verdict"]
    told = ", ".join(f"{number(counts[name])} {VERDICT_WORDS[name][0]}" for name in VERDICTS)
    lead = (
        f"{told}. A verdict says whether the evidence in this log supports the control in this period; it is "
        "no certificate and "
        "no legal advice. What a person has to show is never called supported; a known gap makes a control "
        "partly supported."
    )
    grouped = [(name, list(rows)) for name, rows in groupby(data["controls"], key=lambda row: row["framework"])]
    bars = [
        (shown(name, 30), {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in VERDICTS})
        for name, rows in grouped
    ]
    drawn = charts.stacked("ctl", bars, VERDICTS, f"Controls by framework and verdict: {told}.", width=400, room=130)
    blocks = [chart("Controls by framework", drawn, half=False)]
    about = {item["name"]: item for item in data["frameworks"]}
    for name, rows in grouped:
        item = about[name]
        title = f"{name}: {item['edition']} (source: {item['source']})"
        columns = ["Clause", "Demand", "Verdict", "Why"]
        cells = [_control(row) for row in rows]
        blocks.append(table(title, columns, cells, source=item["note"], widths=(15, 29, 14, 42)))
    blocks.append(
        note(
            "Sources: v read in a primary text, 2 in secondary sources, k general knowledge, to be checked before use."
        )
    )
    return Section("controls", "Controls", lead, blocks)


def _control(row: Mapping[str, Any]) -> list[Cell | str]:
    words, tone = VERDICT_WORDS[row["verdict"]]
    why = " ".join(row["reasons"])
    if row["attach"] and row["verdict"] != "out_of_scope":
        why = f"{why} Attach: {'; '.join(row['attach'])}."
    return [Cell(row["clause"]), Cell(row["demand"]), Cell(words, tone), Cell(shown(why, 700))]


def _questions(data: Mapping[str, Any]) -> Section:
    rows = [
        [
            Cell(query["id"]),
            Cell(query["words"]),
            Cell(f"{_OVER[query['over']]}, population {query['population']:,}, {query['rows']:,} rows"),
            Cell(query["sql"], mono=True),
        ]
        for query in data["queries"]
    ]
    lead = (
        f"Every number above comes from one of these, asked of the first {data['log']['tree_size']:,} entries (root "
        f"{data['log']['root'][:16]}…). Each can be asked again: klingai-audit query --sql '…'. A single entry "
        "is proved with "
        "klingai-audit sample, which writes inclusion proofs."
    )
    return Section("questions", "Questions", lead, [Block("questions", rows=rows)])


def _again(data: Mapping[str, Any]) -> Section:
    pairs: list[tuple[str, object]] = [
        ("Command", Mono(f"{data['command']} -o FILE")),
        ("Log", Mono(data["log"]["origin"])),
        ("Tree size", number(data["log"]["tree_size"])),
        ("Root", Mono(data["log"]["root"])),
        ("Made by", data["made_by"]),
        ("People are shown as", "masks, from the subject table" if data["people"] == "mask" else "pseudonyms"),
    ]
    lead = (
        "Run again on this log, with this version, the command gives the same bytes. The section about this "
        "machine is left out "
        "then; masks of people who were erased since become pseudonyms."
    )
    return Section("again", "Make this report again", lead, [facts("", pairs)])


def _machine(machine: Mapping[str, Any]) -> Section:
    key = machine["key"]
    pairs: list[tuple[str, object]] = [
        ("Made at", machine["made_at"].replace("T", " ").removesuffix("Z") + " UTC"),
        ("Log", machine["log"]),
        ("Trusted key", Mono(key) if key else "none"),
        ("The key comes from", machine["key_source"] or "the log's own claim"),
        *((f"The {name} lies", where) for name, where in (machine["custody"] or {}).items()),
        ("Signed entries", number(machine["signed_entries"])),
        ("Entries not signed yet", number(machine["unsigned_entries"])),
        ("Subject table", machine["subject_table"]),
        *(
            (f"{threat['words'].capitalize()}", f"{threat['state'].replace('_', ' ')}: {threat['by']}")
            for threat in machine["threats"]
        ),
        ("Recorded in the log", "yes" if machine.get("recorded") else "no"),
        ("SHA-256 without this section", Mono(machine.get("sha256_without_this_section", ""))),
    ]
    lead = "What rests on the machine and the moment, and is therefore left out when the report is made again."
    more = records.places(machine["processing"]) if "processing" in machine else []
    return Section("machine", "This machine", lead, [facts("", pairs), *more])
