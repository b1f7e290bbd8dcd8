"""What becomes of results outside Kling: the entries of a download, and of the deletion of a downloaded file. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

from klingai_audit.capture.facts import Exchange, Operation
from klingai_audit.event.record import Draft
from klingai_audit.kling.story import answer_facts

__all__ = ["deletion", "download"]

_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,32}/[A-Za-z0-9.+-]{1,64}").match
_ENCODING: Final = re.compile(r"[a-z][a-z0-9-]{0,15}").fullmatch
_RANGE: Final = re.compile(r"bytes [0-9*]{1,19}(?:-[0-9]{1,19})?/[0-9*]{1,19}").fullmatch


def download(operation: Operation, exchange: Exchange, intent: Draft) -> Draft:
    """The outcome of fetching a file: whole, in part, or not at all."""
    facts = answer_facts(exchange, None, intent, kind=operation.kind)
    facts |= {name: intent.metadata[name] for name in ("result_id",) if name in intent.metadata}
    media = exchange.media
    if media is not None:
        facts["bytes"] = media.bytes
        facts["sha256" if media.complete else "sha256_so_far"] = media.sha256
        facts["complete"] = media.complete
        words = (
            ("type", _MEDIA_TYPE(media.type or "")), ("encoding", _ENCODING(media.encoding or "")),
            ("range", _RANGE(exchange.headers.get("content-range", ""))),
        )  # fmt: skip
        facts |= {name: found.group() for name, found in words if found}
    if media is not None and media.complete:
        outcome = "success"
    elif exchange.status is None and exchange.sent:
        outcome = "unknown"
    else:
        outcome = "failure"
    return _outcome(intent, outcome, facts)


def deletion(operation: Operation, exchange: Exchange, intent: Draft) -> Draft:
    """The outcome of deleting a downloaded file, with the digest that its download had."""
    facts = answer_facts(exchange, None, intent, kind=operation.kind)
    facts.pop("sent", None)
    facts |= {name: intent.metadata[name] for name in ("result_id", "sha256", "bytes") if name in intent.metadata}
    return _outcome(intent, "success" if exchange.error is None else "failure", facts)


def _outcome(intent: Draft, outcome: str, facts: dict[str, Any]) -> Draft:
    return Draft(
        event_type=intent.event_type,
        resource_type=intent.resource_type,
        resource_id=intent.resource_id,
        action=intent.action,
        outcome=outcome,
        correlation_id=intent.correlation_id,
        metadata=facts,
    )
