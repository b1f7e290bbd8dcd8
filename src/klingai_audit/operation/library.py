"""Numbers and health of a program that uses the library, in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from klingai_audit.operation.board import Board
from klingai_audit.operation.server import MetricsServer

if TYPE_CHECKING:
    from klingai_audit.log import AuditLog

__all__ = ["metrics", "serve_metrics"]


def serve_metrics(audit: AuditLog, listen: str = "127.0.0.1:0") -> MetricsServer:
    """Serve /metrics, /healthz and /readyz of this process, which writes `audit`, until the server's `close`.

    `listen` is `HOST:PORT`; port 0 takes any free one, `HOST:FIRST-LAST` the first free one, for workers that come and
    go; `url` of the server says where. Nothing keeps strangers out: let it listen where only the scraper comes.
    Raises: MissingExtra (`pip install 'klingai-audit[serve]'`), UsageError, StorageError: the port is taken.
    """
    from klingai_audit.operation.health import observe

    board = Board()
    observe(board, audit)
    return MetricsServer(board, listen)


def metrics(audit: AuditLog) -> bytes:
    """Return the same numbers as text, for an application that has a route of its own for Prometheus.

    The content type is `text/plain; version=0.0.4`. Raises: MissingExtra.
    """
    from klingai_audit.operation.exposition import expose
    from klingai_audit.operation.health import observe

    board = Board()
    observe(board, audit)
    return expose(board)[0]
