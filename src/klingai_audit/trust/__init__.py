"""Why believe a log: verification, findings, the graded verdict."""

from __future__ import annotations
