"""The provider: a client for Kling AI whose every call is recorded, and what Kling's answers mean.

The client is loaded on first use, so that the interpreter and the simulator can be used without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klingai_audit.kling.client import AsyncKlingAI, KlingAI
    from klingai_audit.kling.errors import KlingError
    from klingai_audit.kling.tasks import AsyncDownload, AsyncTask, Download, Task

__all__ = ["AsyncDownload", "AsyncKlingAI", "AsyncTask", "Download", "KlingAI", "KlingError", "Task"]

_HOMES = {
    "AsyncKlingAI": "client",
    "KlingAI": "client",
    "KlingError": "errors",
    "AsyncDownload": "tasks",
    "AsyncTask": "tasks",
    "Download": "tasks",
    "Task": "tasks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
