"""Running it: numbers and health of a process that writes or checks a log, and its own diagnostics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klingai_audit.operation.board import Board
    from klingai_audit.operation.library import metrics, serve_metrics
    from klingai_audit.operation.server import MetricsServer

__all__ = ["Board", "MetricsServer", "metrics", "serve_metrics"]

_HOMES = {"Board": "board", "MetricsServer": "server", "metrics": "library", "serve_metrics": "library"}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
