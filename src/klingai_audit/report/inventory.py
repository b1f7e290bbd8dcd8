"""Where a log's personal data lies, for how long by policy, and what a search of files and entries found.

Files are read as bytes and searched for what is shaped like an e-mail or a network address; counts leave this module,
never what was found.
"""

from __future__ import annotations

import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from klingai_audit.config import Places, open_reader
from klingai_audit.errors import KlingAuditError
from klingai_audit.event.types import CATEGORIES, EVENT_TYPES
from klingai_audit.privacy.masks import mask_text
from klingai_audit.privacy.policy import Policy
from klingai_audit.privacy.subjects import RESERVED, SubjectTable

__all__ = ["inventory", "search_file"]

_LOCAL: Final = re.compile(rb"[A-Za-z0-9._%+-]{2,64}\Z")
_DOMAIN: Final = re.compile(rb"[A-Za-z0-9-]{2,63}(?:\.[A-Za-z0-9-]{2,63}){0,4}\.[A-Za-z]{2,12}")
_AT: Final = re.compile(rb"@")
_WORD: Final = re.compile(rb"[\w.@+%-]{4,320}")
_IPV4: Final = re.compile(rb"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])")
_SHORTEST: Final = 4
_DOTS: Final = re.compile(rb"\.[0-9]{1,3}\.")
_CHUNK: Final = 1 << 22
_OVERLAP: Final = 512
_SPECIAL: Final = ("127.0.0.1", "0.0.0.0", "255.255.255.255")  # noqa: S104  # addresses of nobody, not bound to
_WHAT: Final = {
    "log": "entries: pseudonyms, masks, commitments",
    "subjects": "table of people: ids, each sealed under the person's own key",
    "keys": "keys, policy and declarations",
    "index": "index: what entries hold, derived and deletable; packed, so a search of its bytes shows little",
    "state": "state: heads, memory of writers and watches",
    "vault": "sealed content, if the policy keeps any: boxes that only the unseal key opens",
}


def inventory(places: Places, subjects: SubjectTable | None = None) -> dict[str, Any]:
    """Return places with what a search of their files found, and the periods of the policy. Reads everything.

    Of a log on a server the entries are searched, of a table of people there nothing.

    Ids of the people in `subjects` are sought, too.
    """
    policy: Policy | None = None
    trouble = None
    try:
        policy = Policy.load(places.keys / "policy.toml")
    except KlingAuditError as exc:
        trouble = exc.message
    except OSError as exc:
        trouble = f"policy.toml cannot be read: {exc.strerror}"
    known = frozenset() if subjects is None else _known(subjects)
    return {
        "policy": None if policy is None else policy.digest,
        "policy_trouble": trouble,
        "periods": [] if policy is None else _periods(policy),
        "sealed_content": None if policy is None else policy.vault.seals,
        "known_ids": None if subjects is None else len(known),
        "places": [
            *_on_servers(places, known),
            *(_place(name, path, files, known) for name, path, files in _files(places)),
        ],
    }


def _known(subjects: SubjectTable) -> frozenset[bytes]:
    """Return the ids that the table of people holds, but for the shortest, which may be any word."""
    ids = (subjects.reveal(pseudonym) for pseudonym in subjects.pseudonyms() if pseudonym not in RESERVED)
    return frozenset(one.encode() for one in ids if one is not None and len(one) >= _SHORTEST)


def _periods(policy: Policy) -> list[dict[str, Any]]:
    """Return how long each category is kept, and event types that have periods of their own."""
    rows: list[dict[str, Any]] = []
    for category in (*CATEGORIES, "custom"):
        types = [name for name, info in EVENT_TYPES.items() if info.category == category] or ["x_any"]
        common = policy.retention.period(next((one for one in types if one not in policy.retention.classes), types[0]))
        rows.append({"entries": category, "minimum_days": common.minimum, "maximum_days": common.maximum,
                     "why": common.why})  # fmt: skip
    for name in policy.retention.classes:
        if name not in (*CATEGORIES, "custom"):
            own = policy.retention.period(name)
            rows.append({"entries": name, "minimum_days": own.minimum, "maximum_days": own.maximum, "why": own.why})
    return rows


def _on_servers(places: Places, known: frozenset[bytes]) -> Iterator[dict[str, Any]]:
    """Tell of what is no file: a log in a database or bucket, a table of people in a database."""
    if places.remote is not None:
        reader = open_reader(places)
        days = [file.size for file in reader.store.inspect() if file.kind == "entries"]
        found = _search((line + b"\n" for line in reader.lines(0, reader.size)), known)
        yield _row("log", places.log, len(days), sum(days), found, bool(any(found)), 0)
    if places.subjects_file is None:
        yield _row("subjects", str(places.subjects), 0, 0, (0, 0, 0), 0, 0)


def _files(places: Places) -> Iterator[tuple[str, Path, list[Path]]]:
    """Yield name, path and files of each place; what lies in several is named once."""
    subjects = places.subjects_file
    table = [path for path in subjects.parent.glob(f"{subjects.name}*") if path.is_file()] if subjects else []
    index = places.state / "index"
    if places.folder is not None:
        yield "log", places.folder, list(_below(places.folder))
    if subjects is not None:
        yield "subjects", subjects, sorted(table)
    yield "keys", places.keys, [path for path in _below(places.keys) if path not in table]
    yield "index", index, list(_below(index))
    yield "state", places.state, [path for path in _below(places.state) if index not in path.parents]
    yield "vault", places.vault, list(_below(places.vault))


def _below(folder: Path) -> Iterator[Path]:
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(top, name)


def _place(name: str, path: Path, files: list[Path], known: frozenset[bytes]) -> dict[str, Any]:
    size = mails = addresses = ids = hit = unread = 0
    for file in files:
        try:
            info = file.lstat()
            if not stat.S_ISREG(info.st_mode):
                continue
            found = search_file(file, known)
        except (OSError, EOFError, zlib.error):
            unread += 1
            continue
        size += info.st_size
        mails, addresses, ids = mails + found[0], addresses + found[1], ids + found[2]
        hit += any(found)
    return _row(name, str(path), len(files), size, (mails, addresses, ids), hit, unread)


def _row(
    name: str, path: str, files: int, size: int, found: tuple[int, int, int], hit: int, unread: int
) -> dict[str, Any]:
    mails, addresses, ids = found
    return {
        "place": name,
        "what": _WHAT[name],
        "path": path,
        "files": files,
        "bytes": size,
        "e_mail_addresses": mails,
        "network_addresses": addresses,
        "ids_of_people": ids,
        "files_with_any": int(hit),
        "not_readable": unread,
    }


def search_file(file: Path, known: frozenset[bytes] = frozenset()) -> tuple[int, int, int]:
    """Return how often a file holds what is shaped like an e-mail, like a whole network address, and a `known` id.

    Sealed days are unpacked. Raises: OSError, EOFError, zlib.error.
    """
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        return _search(iter(lambda: stream.read(_CHUNK), b""), known)


def _search(pieces: Iterator[bytes], known: frozenset[bytes]) -> tuple[int, int, int]:
    mails = addresses = ids = 0
    rest, more = b"", True
    while more:
        data = bytearray(rest)
        while more and len(data) < _CHUNK:
            piece = next(pieces, b"")
            more = bool(piece)
            data += piece
        edge = _edge(data) if more else len(data)
        mails += sum(_is_mail(data, found.start()) for found in _AT.finditer(data, 0, edge))
        addresses += sum(_is_address(data, found.start()) for found in _DOTS.finditer(data, 0, edge))
        if known:
            ids += sum(bytes(found[0]) in known for found in _WORD.finditer(data, 0, edge))
        rest = bytes(data[edge:])
    return mails, addresses, ids


def _edge(data: bytes | bytearray) -> int:
    """Return where to cut, so that nothing that is sought lies on both sides."""
    end = max(data.rfind(sign) for sign in (b"\n", b'"', b" ", b"\0")) + 1
    return end if end > len(data) // 2 else len(data) - _OVERLAP


def _is_mail(data: bytes | bytearray, at: int) -> bool:
    """Tell whether the `@` at `at` stands in what is shaped like an e-mail address, masks not counted."""
    local, domain = _LOCAL.search(data[max(0, at - 64) : at]), _DOMAIN.match(data, at + 1)
    if local is None or domain is None:
        return False
    text = f"{local[0].decode('ascii')}@{domain[0].decode('ascii')}"
    return mask_text(text) != text


def _is_address(data: bytes | bytearray, at: int) -> bool:
    """Tell whether the dot at `at` is the first of a whole network address that is somebody's."""
    found = _IPV4.search(data, max(0, at - 3), at + 14)
    if found is None or not found.start() < at < found.start() + 4:
        return False
    text = found[0].decode("ascii")
    return text not in _SPECIAL and all(int(part) < 256 for part in text.split("."))
