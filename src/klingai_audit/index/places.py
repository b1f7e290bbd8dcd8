"""Where entries begin: one array of positions beside each segment. Hints, which readers check."""

from __future__ import annotations

import bisect
import mmap
from array import array
from collections.abc import Sequence
from pathlib import Path

from klingai_audit.index.manifest import Segment

__all__ = ["PLACES_SUFFIX", "Places", "pack_places"]

PLACES_SUFFIX = ".places"
"""Suffix of the file of positions, in place of the segment's `.parquet`."""

_WIDTH = 8


def pack_places(places: array[int]) -> bytes:
    """Return the bytes of a file of positions: 8 bytes each in this machine's order."""
    return places.tobytes()


class Places:
    """Answers where entries begin in the log, counted in bytes over all entries with their LF."""

    def __init__(self, folder: Path, segments: Sequence[Segment]) -> None:
        self._folder = folder
        self._segments = segments
        self._begins = [segment.begin for segment in segments]
        self._maps: dict[int, memoryview | None] = {}

    def find(self, seq: int) -> int | None:
        """Return where entry `seq` seems to begin, or None."""
        at = bisect.bisect_right(self._begins, seq) - 1
        if at < 0:
            return None
        segment = self._segments[at]
        if seq >= segment.end:
            return segment.places[1] if seq == segment.end else None
        if at not in self._maps:
            self._maps[at] = self._map(segment)
        view = self._maps[at]
        return None if view is None else view[seq - segment.begin]

    def _map(self, segment: Segment) -> memoryview | None:
        try:
            with (self._folder / segment.name).with_suffix(PLACES_SUFFIX).open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            return None
        if len(data) != _WIDTH * (segment.end - segment.begin):
            return None
        return memoryview(data).cast("Q")
