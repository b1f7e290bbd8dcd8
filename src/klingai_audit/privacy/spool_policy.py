"""How much may wait in the spool, and how long an entry is waited for: the policy's table `spool`."""

from __future__ import annotations

from typing import Final

import msgspec

from klingai_audit.errors import UsageError

__all__ = ["MAX_SPOOL_BYTES", "MAX_SPOOL_RECORDS", "MIN_SPOOL_BYTES", "SpoolPolicy"]

MAX_SPOOL_BYTES: Final = 1 << 34
"""Largest ceiling, in bytes, that a policy may set."""

MIN_SPOOL_BYTES: Final = 1 << 17
"""Smallest ceiling, in bytes: one entry of the greatest length must have room."""

MAX_SPOOL_RECORDS: Final = 1_000_000
"""Largest ceiling, in records, that a policy may set."""


class SpoolPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for classes of acts whose failure policy is `spool`.

    `after` is a span of time: an entry that the log has not acknowledged by then goes to the spool. No further act
    begins while `max_bytes` or `max_records` wait there; entries of acts that have begun are still taken.
    """

    after: str = "10s"
    max_bytes: int = 64 << 20
    max_records: int = 100_000

    def check(self) -> None:
        """Raises: UsageError for a limit out of range."""
        for name, value, least, most in (
            ("max_bytes", self.max_bytes, MIN_SPOOL_BYTES, MAX_SPOOL_BYTES),
            ("max_records", self.max_records, 1, MAX_SPOOL_RECORDS),
        ):
            if not least <= value <= most:
                raise UsageError(f"spool.{name}: a number from {least:,} to {most:,}.")
