"""Who may read and write the files of a log, as the file system says: modes and owners of its five places.

Names, modes and owners are looked at, never contents. What this process may not look into is told as such.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from klingai_audit.config import Places

__all__ = ["Flaw", "PlaceAccess", "look_at"]

MAX_FILES: Final = 50_000
"""Files of one place that are looked at."""

_SECRET_ENDS: Final = (".key", ".sqlite", ".sqlite-wal", ".sqlite-shm", ".sqlite-journal")
_REGISTRY: Final = "registry.json"
_ALL: Final = ("log", "keys", "subjects", "state", "vault")


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is too open: how bad, how many files or folders, in words, and the command that mends it."""

    level: Literal["red", "yellow"]
    kind: str
    files: int
    words: str
    do: str


@dataclass(frozen=True, slots=True)
class PlaceAccess:
    """One place: its path, whether it is there and could be looked into, files seen, mode of the top, owners (uids)."""

    place: str
    path: str
    state: Literal["seen", "absent", "closed"]
    files: int = 0
    mode: str = ""
    owners: tuple[int, ...] = ()
    flaws: tuple[Flaw, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The members in `status --json`."""
        return {
            "place": self.place,
            "path": self.path,
            "state": self.state,
            "files": self.files,
            "mode": self.mode or None,
            "owners": list(self.owners),
            "flaws": [{"kind": flaw.kind, "level": flaw.level, "files": flaw.files} for flaw in self.flaws],
        }


def look_at(places: Places) -> list[PlaceAccess]:
    """Look at the places of a log that are files, in the order log, keys, subjects, state, vault. Never raises."""
    paths = {"log": places.folder, "keys": places.keys, "subjects": places.subjects_file, "state": places.state,
             "vault": places.vault}  # fmt: skip
    return [_look(name, path) for name in _ALL if (path := paths[name]) is not None]


def _look(place: str, path: Path) -> PlaceAccess:
    closed: list[OSError] = []
    try:
        top = path.lstat()
        if stat.S_ISLNK(top.st_mode):
            top = path.stat()
        seen = [(path, top), *_below(path, closed)] if stat.S_ISDIR(top.st_mode) else [(path, top)]
    except FileNotFoundError:
        return PlaceAccess(place, str(path), "absent")
    except OSError:
        return PlaceAccess(place, str(path), "closed")
    mode = f"{stat.S_IMODE(top.st_mode):04o}"
    owners = tuple(sorted({info.st_uid for _, info in seen}))
    flaws = tuple(_flaws(place, path, seen))
    state: Literal["seen", "closed"] = "closed" if closed else "seen"
    return PlaceAccess(place, str(path), state, len(seen), mode, owners, flaws)


def _below(path: Path, closed: list[OSError]) -> Iterator[tuple[Path, os.stat_result]]:
    count = 0
    for folder, folders, names in os.walk(path, onerror=closed.append):
        for name in (*folders, *names):
            found = Path(folder, name)
            try:
                info = found.lstat()
            except OSError:
                continue
            if not stat.S_ISLNK(info.st_mode):
                yield found, info
            count += 1
            if count >= MAX_FILES:
                return


def _flaws(place: str, top: Path, seen: list[tuple[Path, os.stat_result]]) -> Iterator[Flaw]:
    def count(bits: int, *, secret: bool | None = None) -> int:
        return sum(
            bool(info.st_mode & bits) and (secret is None or _is_secret(place, file, info) is secret)
            for file, info in seen
        )

    if written := count(0o002):
        yield Flaw("red", "others_write", written, f"anybody may write {_these(written, place)}", f"chmod -R o-w {top}")
    if keys := count(0o004, secret=True):
        words = f"anybody may read {_these(keys, place, 'secret ')}"
        yield Flaw("red", "others_read_secrets", keys, words, f"chmod -R o-rwx {top}")
    elif place == "vault" and seen[0][1].st_mode & 0o007:
        yield Flaw("red", "others_enter_vault", 1, "anybody may enter the vault", f"chmod o-rwx {top}")
    elif place in ("log", "state") and _is_open(seen):
        yield Flaw("yellow", "others_read", 1, f"everybody on this machine may read the {place}", f"chmod o-rwx {top}")
    if shared := count(0o020, secret=True):
        words = f"the group may write {_these(shared, place, 'secret ')}"
        yield Flaw("red", "group_writes_secrets", shared, words, f"chmod -R g-w {top}")
    elif grouped := count(0o020):
        words = f"the group may write {_these(grouped, place)}, which is right only for several writers"
        yield Flaw("yellow", "group_writes", grouped, words, f"chmod -R g-w {top}")
    if read := count(0o040, secret=True):
        words = f"the group may read {_these(read, place, 'secret ')}"
        yield Flaw("yellow", "group_reads_secrets", read, words, f"chmod -R g-r {top}")


def _is_secret(place: str, file: Path, info: os.stat_result) -> bool:
    if not stat.S_ISREG(info.st_mode):
        return False
    return place in ("subjects", "vault") or (
        place == "keys" and (file.name.endswith(_SECRET_ENDS) or file.name == _REGISTRY)
    )


def _is_open(seen: list[tuple[Path, os.stat_result]]) -> bool:
    """Tell whether others may enter the folder and read some file of it."""
    _, top = seen[0]
    enter = not stat.S_ISDIR(top.st_mode) or bool(top.st_mode & 0o001)
    return enter and any(stat.S_ISREG(info.st_mode) and info.st_mode & 0o004 for _, info in seen)


def _these(count: int, place: str, what: str = "") -> str:
    if count == 1:
        return f"one {what}file or folder of the {_PLACES[place]}"
    return f"{count:,} {what}files and folders of the {_PLACES[place]}"


_PLACES: Final = {
    "log": "log",
    "keys": "keys folder",
    "subjects": "table of people",
    "state": "state folder",
    "vault": "vault",
}
