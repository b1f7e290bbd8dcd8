"""Running it: numbers and health of a process that writes or checks a log, and its own diagnostics."""

from __future__ import annotations

from klingai_audit.operation.board import Board
from klingai_audit.operation.library import metrics, serve_metrics
from klingai_audit.operation.server import MetricsServer

__all__ = ["Board", "MetricsServer", "metrics", "serve_metrics"]
