"""The formats by name, and which destinations each can go to."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from klingai_audit.errors import UsageError
from klingai_audit.exports import cef, cloudevents, columns, ocsf, syslog
from klingai_audit.exports.record import Record

__all__ = ["FORMATS", "Destination", "Format", "find_format", "parse_destination"]

DEFAULT_PORTS: Final = {"tls": 6514, "tcp": 601, "https": 443, "http": 80}
"""Scheme of a destination -> port when its URL names none. RFC 5425 and RFC 3195 registered the first two."""

_PLAIN: Final = {"tcp": "tls", "http": "https"}


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    `encode` makes one line of a file, None where the format has no lines; `message` makes one syslog message, None
    where it is not sent as syslog; `head` is a file's first line. `schemes` are those of URLs it can go to. `carries`
    says what becomes of the proof, `drops` what is lost.
    """

    name: str
    title: str
    encode: Callable[[Record], bytes] | None
    carries: str
    drops: str
    schemes: tuple[str, ...] = ()
    message: Callable[[Record], bytes] | None = None
    head: Callable[[], bytes] = bytes
    end: bytes = b"\n"

    @property
    def to_file(self) -> bool:
        """Tell whether a file can hold it."""
        return self.encode is not None or self.name == "parquet"


_SYSLOG: Final = ("tls", "tcp")
_FORMATS: Final = (
    Format(
        "ocsf",
        "OCSF 1.8.0, JSON lines",
        ocsf.encode,
        "`raw_data` is the stored entry; `unmapped.proof` holds origin, `sequence`, `leaf_hash`, `tree_size`, `root`",
        "nothing; digits below a millisecond stand in `raw_data` only",
    ),
    Format(
        "cef",
        "CEF:0, lines or syslog",
        cef.encode,
        "`cn1` seq, `cn2` tree size, `cs1` leaf hash, `cs2` root, `cs3` origin",
        "the stored bytes; metadata beyond 1,023 characters; digits below a millisecond; characters made visible",
        _SYSLOG,
        syslog.encode_cef,
    ),
    Format(
        "cloudevents",
        "CloudEvents 1.0, JSON lines",
        cloudevents.encode,
        "`data` is the stored entry; `sequence`, `leafhash`, `treesize`, `treeroot`",
        "nothing, as long as nobody writes `data` anew",
    ),
    Format(
        "syslog",
        "RFC 5424 messages",
        syslog.encode,
        "structured data `seq`, `leaf`, `size`, `root`, `origin`; the text is the entry as ASCII JSON",
        "the exact bytes of an entry with other characters than ASCII, or `<`, `>`, `&`: they are escaped; metadata of "
        f"an entry whose message would have more than {syslog.MAX_MESSAGE:,} bytes (`cut`)",
        _SYSLOG,
        syslog.encode,
    ),
    Format(
        "otlp",
        "OpenTelemetry logs, OTLP over HTTP",
        None,
        "the body is the stored entry; `audit.sequence.number`, `audit.integrity.value`, `klingai.tree.size`, "
        "`klingai.tree.root`; origin in the resource",
        "nothing, as long as the receiver keeps body and attributes whole",
        ("https", "http"),
    ),
    Format(
        "csv",
        "CSV, RFC 4180",
        columns.encode_csv,
        "columns `seq`, `leaf_hash`, `tree_size`, `tree_root`, `origin`",
        "the stored bytes; characters made visible, apostrophes before what could be a formula",
        head=columns.csv_head,
        end=b"\r\n",
    ),
    Format(
        "parquet",
        "Parquet, zstd",
        None,
        "columns `seq`, `leaf_hash`, `tree_size`, `tree_root`, `origin`, and `entry`, the stored entry; the signed "
        "checkpoint in the file's metadata",
        "nothing",
    ),
    Format(
        "jsonl",
        "JSON lines, the stored bytes",
        lambda record: record.entry.raw,
        "the leaf hash is SHA-256(0x00 ‖ line); `seq` stands in the line; tree size and root in the `.checkpoint` file",
        "nothing; but on standard output there is no `.checkpoint` file",
    ),
)

FORMATS: Final[Mapping[str, Format]] = MappingProxyType({entry.name: entry for entry in _FORMATS})
"""Every format by name."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A receiver's URL, taken apart: `tls://host:port`, `tcp://host:port`, `https://host:port/path`."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def url(self) -> str:
        """The URL in full, the port included."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def encrypted(self) -> bool:
        """Tell whether what is sent cannot be read on its way."""
        return self.scheme not in _PLAIN


def find_format(name: str) -> Format:
    """Return the format called `name`. Raises: UsageError."""
    found = FORMATS.get(name)
    if found is None:
        near = difflib.get_close_matches(name[:40].lower(), FORMATS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Formats: {', '.join(FORMATS)}."
        raise UsageError(f"There is no export format {name!r}.", do=hint)
    return found


def parse_destination(format: Format, url: str, *, plain: bool = False) -> Destination:
    """Take a receiver's URL apart, for one format.

    Without encryption only receivers on this machine are spoken to, unless `plain`. Raises: UsageError.
    """
    if not format.schemes:
        raise UsageError(f"The format {format.name} is written to files, not sent.", do="Use -o FILE.")
    examples = " or ".join(f"{scheme}://host:{DEFAULT_PORTS[scheme]}" for scheme in format.schemes)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise UsageError("--to is not a URL.", do=f"Like {examples}") from exc
    if parts.scheme not in format.schemes or not parts.hostname:
        raise UsageError(f"--to is not a URL to which {format.name} can be sent.", do=f"Like {examples}")
    web = parts.scheme in ("http", "https")
    if parts.username is not None or parts.query or parts.fragment or (parts.path.strip("/") and not web):
        raise UsageError(
            "--to may name host, port and, for HTTP, a path; nothing else.",
            do="Keys of a receiver go into OTEL_EXPORTER_OTLP_HEADERS." if web else f"Like {examples}",
        )
    found = Destination(
        parts.scheme,
        parts.hostname,
        DEFAULT_PORTS[parts.scheme] if port is None else port,
        (parts.path.rstrip("/") or "/v1/logs") if web else "",
    )
    if not (found.encrypted or plain or _is_loopback(found.host)):
        raise UsageError(
            f"{parts.scheme}:// would send the log in the clear to another machine.",
            do=f"Use {_PLAIN[parts.scheme]}://, or say --plain if that is meant.",
        )
    return found


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
