"""The flight recorder for Kling AI: a tamper-evident record of every call, with proofs a stranger can check.

Start with `AuditLog.open`, `acting` and `klingai_audit.kling.KlingAI`; errors are in `klingai_audit.errors`.
"""

from __future__ import annotations

from klingai_audit.errors import AuditUnavailable, KlingAuditError
from klingai_audit.event.context import acting
from klingai_audit.event.types import EventType
from klingai_audit.ledger.receipt import Receipt
from klingai_audit.log import AuditLog
from klingai_audit.privacy.commitment import ToCommit

__all__ = ["AuditLog", "AuditUnavailable", "EventType", "KlingAuditError", "Receipt", "ToCommit", "acting"]
