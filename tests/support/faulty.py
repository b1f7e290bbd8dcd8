"""File operations that fail on command; they are part of the shipped test kit."""

from __future__ import annotations

from klingai_audit.testing.faulty import PRIMITIVES, Call, FaultyOps, How, QuickOps

__all__ = ["PRIMITIVES", "Call", "FaultyOps", "How", "QuickOps"]
