"""What a log was last opened with, so that the next opening can tell what is different.

One file in the state folder, `options.json`: derived, may be deleted at will; without it nothing is compared.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from klingai_audit.durable import OPS, PRIVATE_MODE, FileOps, read_optional

__all__ = ["OptionsMemory", "describe_options"]

_DECODER: Final = msgspec.json.Decoder(dict[str, str])


def describe_options(
    home: Path, options: Mapping[str, str | Path | None], fingerprint: Callable[[str], str]
) -> dict[str, str]:
    r"""Return options as texts that an entry may hold; those without a value are left out.

    Places are told as seen from `home`, the folder that the log is in, so that moving all of it changes nothing;
    elsewhere they are told by `fingerprint`, because paths name people. Bytes of a path that are no UTF-8 become
    `\xff`.
    """
    told = {}
    for name, value in options.items():
        if isinstance(value, Path):
            path = _text(os.path.relpath(value, home))
            told[name] = f"elsewhere:{fingerprint(_text(value.absolute()))}" if path.startswith("..") else path
        elif value is not None:
            told[name] = value
    return told


def _text(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class OptionsMemory:
    """The remembered options of one log, by name; values are texts. Reading and writing never raise."""

    def __init__(self, state: Path, ops: FileOps = OPS) -> None:
        self._path = state / "options.json"
        self._ops = ops

    def changes(self, options: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return name → old and new value for each option that is remembered with another value."""
        known = self._read()
        return {
            name: {"old": known[name], "new": value}
            for name, value in options.items()
            if known.get(name, value) != value
        }

    def remember(self, options: Mapping[str, str]) -> None:
        """Remember these options beside those that are remembered; writes only what is news."""
        known = self._read()
        if known != (merged := {**known, **options}):
            with contextlib.suppress(OSError):
                self._ops.replace(self._path, msgspec.json.encode(merged) + b"\n", mode=PRIVATE_MODE)

    def _read(self) -> dict[str, str]:
        try:
            return _DECODER.decode(read_optional(self._path) or b"{}")
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return {}
