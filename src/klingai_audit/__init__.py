"""The flight recorder for Kling AI: a tamper-evident record of every call, with proofs a stranger can check.

Start with `AuditLog.open`, `acting` and `klingai_audit.kling.KlingAI`; errors are in `klingai_audit.errors`.
What writes a log is loaded on first use, so that reading commands start quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klingai_audit.errors import AuditUnavailable, KlingAuditError
from klingai_audit.event.context import acting
from klingai_audit.event.types import EventType

if TYPE_CHECKING:
    from klingai_audit.ledger.receipt import Receipt
    from klingai_audit.log import AuditLog
    from klingai_audit.privacy.commitment import ToCommit

__all__ = ["AuditLog", "AuditUnavailable", "EventType", "KlingAuditError", "Receipt", "ToCommit", "acting"]

_HOMES = {"AuditLog": "log", "Receipt": "ledger.receipt", "ToCommit": "privacy.commitment"}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
