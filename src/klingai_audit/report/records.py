"""The records of processing as a section of the report, and their places and periods in the section on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from klingai_audit.report.blocks import MAX_ROWS, Block, Cell, Mono, Section, cell, facts, moment, number, shown, table
from klingai_audit.report.sections import source_of

__all__ = ["places", "section"]

_HUMAN = Cell("needs a human", "human")


def section(data: Mapping[str, Any]) -> Section:
    """Return the section: what, why, who received it, what was erased, what a search found, what a person fills in."""
    found = data["processing"]
    scan = found["scan"]
    hits = scan["e_mail_addresses"] + scan["network_addresses"] + scan["credentials"] + scan["prompts"]
    lead = (
        "What the log shows for a record of processing (GDPR, article 30). Places, periods and files stand in the last "
        "section, because they are this machine's. A pseudonym is still personal data. "
        f"A search of {number(scan['entries'])} entries for plain personal data found "
        f"{'none' if not hits else number(hits) + ' entries that hold some'}"
        f"{'.' if scan['complete'] else '; it was not complete.'}"
    )
    return Section("processing", "Records of processing", lead, [_data(data), _purposes(data), _scan(data),
                   _recipients(data), _acts(data), _measures(found), _human(found)])  # fmt: skip


def _data(data: Mapping[str, Any]) -> Block:
    rows = [
        [cell(row["what"]), shown(row["form"], 100), shown(row["purpose"], 100), number(row["entries"]),
         number(row["distinct"])]
        for row in data["processing"]["data"]
    ]  # fmt: skip
    names = ["Personal data", "Form", "Why (proposed)", "Entries>", "Distinct>"]
    return table("Personal data in entries", names, rows, source=source_of(data, "Q40"), widths=(24, 28, 26, 11, 11))


def _purposes(data: Mapping[str, Any]) -> Block:
    rows = [
        [cell(row["category"]), number(row["entries"]), shown(row["purpose"] or "only you know", 120), _HUMAN]
        for row in data["processing"]["purposes"]
    ]
    names = ["Category", "Entries>", "Purpose (proposed)", "Confirm"]
    return table("Purposes by category", names, rows, source=source_of(data, "Q41"))


def _scan(data: Mapping[str, Any]) -> Block:
    scan = data["processing"]["scan"]

    def told(count: int) -> Cell:
        return Cell("not found", "good") if not count else Cell(f"found in {count:,} entries", "bad")

    names = ("e_mail_addresses", "network_addresses", "credentials", "prompts")
    rows = [[cell(name.replace("_", " ").replace("e mail", "e-mail")), told(scan[name])] for name in names]
    return table("Search of the entries for plain personal data", ["Sought", "Result"], rows,
                 source=source_of(data, "Q25", "Q26", "Q44"))  # fmt: skip


def _recipients(data: Mapping[str, Any]) -> Block:
    found = data["processing"]["recipients"]
    rows = [
        [cell(row["event_type"]), cell(row["actor"]), shown(row["destination"], 60), number(row["entries"]),
         moment(row["last"])]
        for row in found[:MAX_ROWS]
    ]  # fmt: skip
    names = ["Act", "By", "To, or as", "Entries>", "Last (UTC)"]
    empty = "No export, report or opening is on record. What left by other means leaves no entry."
    return table("Recipients on record", names, rows, source=source_of(data, "Q42"), total=len(found), empty=empty)


def _acts(data: Mapping[str, Any]) -> Block:
    found = data["processing"]["acts"]
    rows = [
        [number(row["seq"]), moment(row["timestamp"]), cell(row["event_type"]), cell(row["about"]),
         shown(row["basis"], 80), number(row["entries"])]
        for row in found[:MAX_ROWS]
    ]  # fmt: skip
    names = ["Entry>", "Time (UTC)", "Act", "Whom or what", "Basis or reason", "Entries touched>"]
    return table("Erasures, holds, purges", names, rows, source=source_of(data, "Q43"), total=len(found),
                 empty="None on record.")  # fmt: skip


def _measures(found: Mapping[str, Any]) -> Block:
    rows = [[cell(row["measure"]), shown(row["evidence"], 160)] for row in found["measures"]]
    return table("Measures of security that the log shows", ["Measure", "Evidence"], rows)


def _human(found: Mapping[str, Any]) -> Block:
    rows = [[shown(words, 240), _HUMAN] for words in found["needs_human"]]
    return table("What a person has to fill in or confirm", ["What", "State"], rows, widths=(80, 20))


def places(found: Mapping[str, Any]) -> list[Block]:
    """Return the blocks about this machine: the periods of its policy, and its places with what a search found."""
    if found["policy"] is None:
        periods = facts("Periods by policy", [("Not known", found["policy_trouble"])])
    else:
        rows = [
            [cell(row["entries"]), number(row["minimum_days"]),
             "for ever" if row["maximum_days"] is None else number(row["maximum_days"]), shown(row["why"], 120)]
            for row in found["periods"]
        ]  # fmt: skip
        names = ["Entries", "Days at least>", "Days at most>", "By"]
        periods = table("Periods by policy", names, rows, source=f"policy {found['policy'][:16]}…")
    rows = [
        [cell(row["what"]), Cell(shown(Mono(row["path"]), 60), mono=True), number(row["files"]), number(row["bytes"]),
         _hits(row["e_mail_addresses"]), _hits(row["network_addresses"]),
         _hits(row["ids_of_people"]) if found["known_ids"] is not None else Cell("not known here", "dim")]
        for row in found["places"]
    ]  # fmt: skip
    names = ["What lies there", "Place", "Files>", "Bytes>", "E-mail addresses", "Network addresses", "Ids of people"]
    return [periods, table("Places, and a search of their files", names, rows)]


def _hits(count: int) -> Cell:
    return Cell("not found", "good") if not count else Cell(f"found: {count:,}", "bad")
