"""Reconciliation: what the log says against what the provider says, so that calls around the log are found.

`reconcile(audit, client, begin, end)` returns a `Result` and records it. What the provider's records can show is what
the provider keeps: tasks for 30 days, deductions in its ledgers, which may lag by 12 hours.
"""

from __future__ import annotations

from klingai_audit.reconcile.result import KINDS, Difference, Result
from klingai_audit.reconcile.run import reconcile

__all__ = ["KINDS", "Difference", "Result", "reconcile"]
