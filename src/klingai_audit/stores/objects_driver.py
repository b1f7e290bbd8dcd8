"""obstore, and what it takes to use it in a forked process.

Its threads do not live on in a forked child, and whatever the child asks of them hangs, and hangs the parent too:
both would wait at one epoll descriptor. So a child loads a second copy of the library, which has threads of its own,
and never touches or frees what it inherited.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import ipaddress
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from klingai_audit.errors import AuditUnavailable, MissingExtra, UsageError

__all__ = ["Driver", "driver", "is_local", "keep_for_ever", "open_bucket", "s3_endpoint"]

_COPY: Final = "_klingai_audit_objects._obstore"
_CLIENT: Final = {"connect_timeout": timedelta(seconds=3), "timeout": timedelta(seconds=20)}
_ONCE: Final = {"max_retries": 0, "retry_timeout": timedelta(seconds=20)}
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Driver:
    """The parts of one loaded copy of obstore: functions, classes of stores, exceptions."""

    functions: Any
    stores: Any
    exceptions: Any


class _Loaded:
    """What this process uses."""

    driver: Driver | None = None
    inherited = False


def driver() -> Driver:
    """Return obstore for this process. Raises: MissingExtra, AuditUnavailable (no copy can be loaded)."""
    if _Loaded.driver is None:
        _Loaded.driver = _copied() if _Loaded.inherited else _imported()
    return _Loaded.driver


def _imported() -> Driver:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as exc:
        raise MissingExtra("Logs in buckets need obstore.", do="pip install 'klingai-audit[objects]'") from exc
    return Driver(obstore, obstore.store, obstore.exceptions)


def _copied() -> Driver:
    origin = getattr(sys.modules.get("obstore._obstore"), "__file__", None)
    try:
        module = _load_copy(Path(str(origin)))
    except (AttributeError, OSError, ImportError) as exc:
        raise AuditUnavailable(
            f"A log in a bucket cannot be used in a forked process here: {type(exc).__name__}.",
            do="Open the log after the fork (in each worker), or start processes by spawn.",
        ) from exc
    return Driver(module, module._store, module.exceptions)  # noqa: SLF001  the classes that obstore.store extends


def _load_copy(path: Path) -> ModuleType:
    """Load the library a second time: from memory, for one file is loaded once only."""
    copy = os.memfd_create("obstore", os.MFD_CLOEXEC)
    try:
        with path.open("rb") as source:
            size, at = os.fstat(source.fileno()).st_size, 0
            while at < size:
                at += os.sendfile(copy, source.fileno(), at, size - at)
        name = f"/proc/{os.getpid()}/fd/{copy}"  # never that of a parent's copy: the same name would be the same module
        loader = importlib.machinery.ExtensionFileLoader(_COPY, name)
        spec = importlib.util.spec_from_file_location(_COPY, name, loader=loader)
        if spec is None:
            raise ImportError(_COPY)
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        return module
    finally:
        os.close(copy)


def keep_for_ever(thing: object) -> None:
    """Let an inherited object never be freed: that would take the parent's connections from under it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def open_bucket(api: Driver, url: str) -> Any:
    """Open `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`; nothing is asked yet.

    Credentials, region, endpoint and account come from the environment, as each provider's own tools read them.
    Plain http is for endpoints on this machine, or where `AWS_ALLOW_HTTP` says so. Raises: UsageError.
    """
    parts = urlsplit(url)
    options: dict[str, Any] = dict(_CLIENT)
    more: dict[str, Any] = {}
    if parts.scheme == "s3":
        if endpoint := s3_endpoint():
            more["endpoint"] = endpoint  # of several in the environment the driver takes any
        if is_local(endpoint):
            options["allow_http"] = True
        if not os.environ.get("AWS_CHECKSUM_ALGORITHM"):
            more["checksum_algorithm"] = "SHA256"  # or some servers keep what arrives, bytes lost on the way or not
    kinds = {"s3": "S3Store", "gs": "GCSStore", "az": "AzureStore"}
    make = getattr(api.stores, kinds[parts.scheme])
    prefix = parts.path.strip("/") or None
    try:
        return make(parts.netloc, prefix=prefix, client_options=options, retry_config=_ONCE, **more)
    except (api.exceptions.BaseError, ValueError, OSError) as exc:
        raise UsageError(
            f"{url} cannot be opened with the settings in the environment: {type(exc).__name__}.",
            do="See docs/how-to/object-storage.md for the variables that name endpoint, region and credentials.",
        ) from exc


def s3_endpoint() -> str:
    """Return the S3 server that the environment names; empty for that of AWS. Raises: UsageError if it is no URL."""
    named = {name: value for name in _ENDPOINTS if (value := os.environ.get(name))}
    for name, value in named.items():
        if not _is_address(value):  # the driver would end in a panic
            raise UsageError(
                f"{name} in the environment is no URL of a server.",
                do="Write it whole, with its scheme: https://s3.example.com or http://127.0.0.1:9000",
            )
    return next(iter(named.values()), "")


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and not any(map(str.isspace, endpoint))


def is_local(endpoint: str) -> bool:
    """Tell whether an endpoint is plain http to this very machine."""
    parts = urlsplit(endpoint)
    if parts.scheme != "http":
        return False
    try:
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _after_fork_in_child() -> None:
    if _Loaded.driver is not None:
        for part in (_Loaded.driver.functions, _Loaded.driver.exceptions):
            keep_for_ever(part)
    _Loaded.driver = None
    _Loaded.inherited = "obstore._obstore" in sys.modules


os.register_at_fork(after_in_child=_after_fork_in_child)
