"""What every command that runs on and on offers its operator: `--metrics`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from klingai_audit.cli.session import Session, escaped
from klingai_audit.diagnostics import tell

if TYPE_CHECKING:
    from klingai_audit.ledger.reader import LogReader
    from klingai_audit.operation import Board

Metrics = Annotated[
    str | None, Parameter(help="Also serve /metrics (Prometheus), /healthz and /readyz at this HOST:PORT.")
]
"""The option `--metrics`."""


@contextlib.contextmanager
def operated(session: Session, metrics: str | None, reader: LogReader | None = None) -> Iterator[Board]:
    """Give the board of a command, served while the block runs if `metrics` says where.

    With `reader` the command is ready while the log's checkpoint can be read. Raises: MissingExtra, UsageError,
    StorageError: nothing can listen there.
    """
    from klingai_audit.operation.board import Board

    board = Board()
    if reader is not None:
        from klingai_audit.operation.health import can_read

        board.check("log", can_read(reader))
    if metrics is None:
        yield board
        return
    from klingai_audit.operation.server import MetricsServer

    with MetricsServer(board, escaped(metrics)) as server:
        session.remark(f"Metrics at {server.url}/metrics", metrics=f"{server.url}/metrics")
        tell(logging.INFO, "metrics_served", "metrics and health are served")
        yield board
