"""Records of processing (GDPR, article 30): what personal data a log holds, why, who got it, what was erased.

Here stands what follows from the log alone; places, periods and files are this machine's (`inventory`). What a person
has to decide or to fill in is listed as such: no sentence here is legal advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.masks import mask_text
from klingai_audit.report.ask import Asker, named
from klingai_audit.report.data import shown
from klingai_audit.report.leaks import MAX_SUSPECTS
from klingai_audit.report.scope import Scope
from klingai_audit.views.entry import People
from klingai_audit.views.haystack import words_of

__all__ = ["FRAMEWORK", "PURPOSES", "processing"]

FRAMEWORK: Final = "gdpr"
"""The framework whose naming asks for this section."""

PURPOSES: Final[Mapping[str, str]] = {
    "authentication": "to know which credential was used, and whom the provider refused",
    "operations": "to account for paid generations and for files that were handed out",
    "user": "to show that somebody ordered something, without keeping what",
    "admin": "to show who changed access, budgets and policy",
    "security": "to find misuse and follow it up",
    "log": "to show that the record is whole, and who read it",
    "custom": "",
}
"""Category of events → why they are recorded, as this product proposes it; empty where only the operator knows."""

_KINDS: Final = (
    ("pseudonym of who acted", "a keyed reference; id and key lie in the table of people", "to know who acted",
     "starts_with(actor_id, 'p_')", "actor_id"),
    ("id of who acted, as it is", "plain text: of services, or by the policy's actor_ids", "to know what acted",
     "NOT starts_with(actor_id, 'p_')", "actor_id"),
    ("pseudonym of the person acted for", "a keyed reference", "to know in whose name a service acted",
     "on_behalf_of IS NOT NULL", "on_behalf_of"),
    ("coarse network address", "masked to a network", "to find misuse of an account", "ip_address IS NOT NULL", "NULL"),
    ("reference to the whole address", "a keyed reference, per person", "to see that an address changed",
     "ip_ref IS NOT NULL", "NULL"),
    ("program used", "product and major version", "to find misuse of an account", "user_agent IS NOT NULL", "NULL"),
    ("content of orders", "commitments: salted digests and lengths", "to prove later what was ordered",
     "event_type = 'prompt_submitted'", "NULL"),
    ("team and project", "plain text", "to account for costs", "coalesce(team, project) IS NOT NULL", "NULL"),
)  # fmt: skip

_HUMAN: Final = (
    "name and contact of the controller, of a joint controller or representative, and of the data protection officer",
    "that the purposes in this section are yours, and the legal basis of each",
    "which categories of people act here: staff, customers, contractors",
    "the contract with the provider of the generations, and whether data goes to a third country",
    "the recipients of exports and of copies of the log that it does not know of, backups among them",
    "the periods for backups and for plain text logs beside this log",
    "whether an impact assessment (article 35) is needed",
)

_ADDRESS: Final = r"(^|[^0-9.])[0-9]{1,3}(\.[0-9]{1,3}){3}([^0-9.]|$)|([0-9A-Fa-f]{1,4}:){3}|[0-9A-Fa-f]::[0-9A-Fa-f]"
_COLUMNS: Final = "metadata, action, resource_id, actor_id, on_behalf_of, team, project, ip_address, user_agent"
_LISTED: Final = 200


def processing(reader: LogReader, ask: Asker, people: People, scope: Scope, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the log's part of the records; `facts` are the other sections of the report."""
    leaks = facts["leakage"]
    addresses = _addresses(reader, ask)
    found = {what: len({leak["seq"] for leak in leaks["found"] if leak["what"] == what}) for what in
             ("credential", "address")}  # fmt: skip
    return {
        "needs_human": list(_HUMAN),
        "data": _data(ask),
        "purposes": _purposes(ask),
        "recipients": _recipients(ask, people, scope),
        "acts": _acts(ask, people, scope),
        "measures": _measures(facts),
        "scan": {
            "entries": leaks["entries"],
            "e_mail_addresses": found["address"],
            "credentials": found["credential"],
            "network_addresses": addresses["entries"],
            "prompts": leaks["prompts"],
            "complete": not leaks["too_many"] and not addresses["too_many"] and leaks["total"] <= len(leaks["found"]),
        },
    }


def _data(ask: Asker) -> list[dict[str, Any]]:
    columns = ", ".join(f"count(*) FILTER ({test}), count(DISTINCT {who}) FILTER ({test})" for *_, test, who in _KINDS)
    row = ask.ask("Q40", "entries that hold each kind of personal data, and of how many people",
                  f"SELECT {columns} {{all}}", "all")[0]  # fmt: skip
    return [
        {"what": what, "form": form, "where": "entries", "purpose": purpose, "entries": row[2 * place],
         "distinct": row[2 * place + 1] or None}
        for place, (what, form, purpose, _, _) in enumerate(_KINDS)
    ]  # fmt: skip


def _purposes(ask: Asker) -> list[dict[str, Any]]:
    rows = ask.ask("Q41", "entries by category", "SELECT category, count(*) {all} GROUP BY category ORDER BY 1", "all")
    counts = dict(rows)
    return [
        {"category": name, "entries": counts.get(name, 0), "purpose": purpose or None, "needs_human": True}
        for name, purpose in PURPOSES.items()
    ]


def _recipients(ask: Asker, people: People, scope: Scope) -> list[dict[str, Any]]:
    """Return who got data, as far as entries tell: exports, bundles, reports, unsealed content."""
    rows = ask.ask(
        "Q42",
        "exports, reports and unsealed content, by kind, actor and destination",
        "SELECT event_type, actor_id, left(coalesce(json_extract_string(metadata, '$.to'), "
        "json_extract_string(metadata, '$.format'), json_extract_string(metadata, '$.command')), 200) AS destination, "
        "count(*), max(timestamp) {log} AND event_type IN ('log_exported', 'report_generated', 'content_unsealed') "
        f"GROUP BY ALL ORDER BY 4 DESC, 1, 2, 3 LIMIT {_LISTED}",
        "log",
    )
    return shown(named(("event_type", "actor_id", "destination", "entries", "last"), rows), people, scope)


def _acts(ask: Asker, people: People, scope: Scope) -> list[dict[str, Any]]:
    """Return erasures, holds and purges, newest first; `about` is a pseudonym, a hold's name or a number of entries."""
    rows = ask.ask(
        "Q43",
        "erasures, holds and purges, newest first",
        "SELECT seq, timestamp, event_type, actor_id, resource_id AS about, "
        "left(coalesce(json_extract_string(metadata, '$.basis'), json_extract_string(metadata, '$.reason'), action), "
        "200) AS basis, TRY_CAST(json_extract_string(metadata, '$.entries') AS UBIGINT) AS entries {log} "
        "AND event_type IN ('subject_erased', 'legal_hold_set', 'legal_hold_released', 'retention_applied') "
        f"ORDER BY seq DESC LIMIT {_LISTED}",
        "log",
    )
    return shown(
        named(("seq", "timestamp", "event_type", "actor_id", "about", "basis", "entries"), rows), people, scope
    )


def _measures(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the measures of article 32 that the log shows, each with what it rests on."""
    holds = facts["integrity"]["holds"]
    anchors, access = facts["anchors"]["total"], facts["access"]["total"]
    return [
        {"measure": "pseudonyms in place of ids", "evidence": "kinds of data, above"},
        {"measure": "commitments in place of prompts", "evidence": "kinds of data, above; the search of entries"},
        {"measure": "a signed tree over all entries",
         "evidence": "it verifies" if holds else "it does not verify: see the section on integrity"},
        {"measure": "witnesses and time stamps outside",
         "evidence": f"{anchors:,} entries name one in the period" if anchors else "none in the period"},
        {"measure": "access to the log on record", "evidence": f"{access:,} entries in the period; others leave none"},
        {"measure": "erasure of a person with proofs intact", "evidence": "acts, below"},
    ]  # fmt: skip


def _addresses(reader: LogReader, ask: Asker) -> dict[str, Any]:
    """Return in how many entries a whole network address stands, masks not counted."""
    rows = ask.ask(
        "Q44",
        "entries in which something may look like a network address, before a closer look",
        f"SELECT seq {{all}} AND regexp_matches(concat_ws(' ', {_COLUMNS}), '{_ADDRESS}') ORDER BY seq "
        f"LIMIT {MAX_SUSPECTS + 1}",
        "all",
    )
    found = sum(_has_address(reader, int(seq)) for (seq,) in rows[:MAX_SUSPECTS])
    return {"entries": found, "too_many": len(rows) > MAX_SUSPECTS}


def _has_address(reader: LogReader, seq: int) -> bool:
    try:
        words = [word for word in words_of(msgspec.json.decode(reader.entry(seq))) if isinstance(word, str)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError):
        return False
    return any("@" not in word and mask_text(word) != word for word in words)
