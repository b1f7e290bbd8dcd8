"""A search for what must not be in a log: credentials, e-mail addresses, prompts as text. Names places, never contents.

The index is asked for every entry in which anything looks like one, generously; those few are read from the log itself
and looked at with the patterns of the privacy door.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from klingai_audit.errors import UsageError
from klingai_audit.ledger.reader import LogReader
from klingai_audit.privacy.commitment import is_commitment
from klingai_audit.privacy.masks import mask_text
from klingai_audit.privacy.shapes import has_shape
from klingai_audit.privacy.subjects import is_pseudonym
from klingai_audit.report.ask import Asker
from klingai_audit.views.haystack import words_of

__all__ = ["MAX_SUSPECTS", "SUSPICIOUS", "leakage"]

MAX_SUSPECTS: Final = 50_000
"""Entries that are looked at closely; if more look suspicious, the check does not pass."""

SUSPICIOUS: Final = (
    r"eyJ[\w-]{4,}(\.|%2[Ee])"
    r"|api-key-\w|(api|access|secret)-key|whsec_|PRIVATE\+KEY|AGE-SECRET-KEY|PRIVATE KEY"
    r"|[sr]k[-_][A-Za-z_-]{0,64}[0-9]|gh[pousr]_[A-Za-z0-9]{16}|github_pat_|glpat-|xox[a-z]-"
    r"|A(KIA|SIA)[0-9A-Z]{16}|(LTAI|AKID)[0-9A-Za-z]{12}|AIza|ya29\.|(hf|npm|r8)_[A-Za-z0-9]{20}|pypi-"
    r"|[^*@]@[\w-]"
)
"""Regular expression (RE2) that finds all that `privacy.shapes` and `privacy.masks` know, and more."""

_LISTED: Final = 50
_COLUMNS: Final = (
    "metadata, action, resource_type, resource_id, actor_id, on_behalf_of, team, project, ip_address, ip_ref, "
    "user_agent, correlation_id, request_id"
)


def leakage(reader: LogReader, ask: Asker, size: int, *, begin: int = 0) -> dict[str, Any]:
    """Return how many of the entries `[begin, size)` hold a credential or an address, or a prompt as text."""
    newest = f" AND seq >= {begin}" if begin else ""
    suspects = ask.ask(
        "Q25",
        "entries in which something may look like a credential or an address, before a closer look",
        f"SELECT seq {{all}}{newest} AND regexp_matches(concat_ws(' ', {_COLUMNS}), '{SUSPICIOUS}') ORDER BY seq "
        f"LIMIT {MAX_SUSPECTS + 1}",
        "all",
    )
    prompts = ask.ask(
        "Q26",
        "entries in which a prompt stands as text",
        f"SELECT count(*) {{all}}{newest} AND contains(CAST(metadata AS VARCHAR), 'prompt') AND (json_type(metadata, "
        "'$.prompt') = "
        "'VARCHAR' OR json_type(metadata, '$.negative_prompt') = 'VARCHAR')",
        "all",
    )
    found = [
        {"seq": int(seq), "what": what} for (seq,) in suspects[:MAX_SUSPECTS] for what in _inspect(reader, int(seq))
    ]
    return {
        "entries": size - begin,
        "suspects": min(len(suspects), MAX_SUSPECTS),
        "too_many": len(suspects) > MAX_SUSPECTS,
        "total": len({leak["seq"] for leak in found}),
        "found": found[:_LISTED],
        "prompts": prompts[0][0],
    }


def _inspect(reader: LogReader, seq: int) -> Iterator[str]:
    try:
        entry = msgspec.json.decode(reader.entry(seq), type=dict[str, Any])
        entry.pop("seal", None)
        texts = [word for word in words_of(entry, _is_random) if isinstance(word, str)]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, UsageError):
        return
    if any(map(has_shape, texts)):
        yield "credential"
    if any("@" in text and mask_text(text) != text for text in texts):
        yield "address"


def _is_random(value: Any) -> bool:
    """Tell whether a value is a commitment or a pseudonym, whose letters may spell a key by chance."""
    return is_pseudonym(value) if isinstance(value, str) else is_commitment(value)
