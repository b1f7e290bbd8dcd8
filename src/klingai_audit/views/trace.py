"""From a media file to the entries that tell where it comes from.

Delivered results carry their plain SHA-256, so anyone can look them up. What people handed in (reference images,
sounds) is only committed to; with the subject table each commitment of the file's length is tried.
Allowed callers: views, log, cli.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from klingai_audit.errors import UsageError
from klingai_audit.privacy.commitment import check_opening, is_commitment, opening
from klingai_audit.privacy.subjects import SubjectTable
from klingai_audit.views.entry import EntryView, People
from klingai_audit.views.story import Story, tell_story

__all__ = ["MediaFile", "Role", "Sighting", "Trace", "trace"]

Role = Literal["delivered", "handed_in"]
_CHUNK: Final = 1 << 20
_MAX_INPUT_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file as it is looked for: its SHA-256 in lowercase hex, its length in bytes, and how to read it again."""

    sha256: str
    bytes: int
    path: Path

    @classmethod
    def of(cls, path: Path, progress: Callable[[int, int], None] | None = None) -> MediaFile:
        """Hash a file; `progress` gets bytes done and in all. Raises: UsageError for what cannot be read."""
        digest, done = hashlib.sha256(), 0
        try:
            total = path.stat().st_size
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(done, total)
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "not a path"
            raise UsageError(f"The file {str(path)!r} cannot be read: {reason}.", do="Name a media file.") from exc
        return cls(digest.hexdigest(), done, path)


@dataclass(frozen=True, slots=True)
class Sighting:
    """One entry that speaks of the file: as a result that was `delivered`, or as something `handed_in`.

    `pointer` is the JSON pointer of the digest or of the commitment in the entry.
    """

    entry: EntryView
    role: Role
    pointer: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What the log knows of one file. `inputs_checked`: whether commitments could be tried, too."""

    file: MediaFile
    sightings: tuple[Sighting, ...]
    stories: tuple[Story, ...]
    inputs_checked: bool


def trace(read: Callable[[], Iterable[bytes]], file: MediaFile, subjects: SubjectTable | None = None) -> Trace:
    """Find every entry that tells of the file's bytes, and the story of each task that it belongs to.

    `read` gives the stored entries in log order, each time from the start.
    """
    people = People(subjects)
    tries_inputs = subjects is not None and 0 < file.bytes <= _MAX_INPUT_BYTES
    found = list(_delivered(read(), file, people))
    if tries_inputs and subjects is not None:
        found += _handed_in(read(), file, subjects, people)
    found.sort(key=lambda sighting: sighting.entry.seq)
    tasks = dict.fromkeys(filter(None, (one.entry.resource_id or one.entry.correlation_id for one in found)))
    told = (tell_story(read, task, subjects) for task in tasks)
    stories = {story.task: story for story in told if story is not None}
    return Trace(file, tuple(found), tuple(stories.values()), tries_inputs)


def _delivered(lines: Iterable[bytes], file: MediaFile, people: People) -> Iterator[Sighting]:
    needle = f'"{file.sha256}"'.encode()
    for line in lines:
        if needle in line:
            entry = EntryView(line, people)
            for pointer, value in _walk("/metadata", entry.metadata):
                if value == file.sha256:
                    yield Sighting(entry, "delivered", pointer)


def _handed_in(lines: Iterable[bytes], file: MediaFile, subjects: SubjectTable, people: People) -> Iterator[Sighting]:
    needle = f'"bytes":{file.bytes}'.encode()
    content: bytes | None = None
    keys: dict[str, bytes | None] = {}
    for line in lines:
        if needle not in line:
            continue
        entry = EntryView(line, people)
        actor = entry.actor_id
        if actor is None:
            continue
        if actor not in keys:
            keys[actor] = _key_of(subjects, actor)
        key = keys[actor]
        if key is None:
            continue
        for pointer, value in _walk("/metadata", entry.metadata):
            if isinstance(value, dict) and is_commitment(value) and value["bytes"] == file.bytes:
                content = file.path.read_bytes() if content is None else content
                if check_opening(value, opening(key, entry.event_id, pointer), content):
                    yield Sighting(entry, "handed_in", pointer)


def _key_of(subjects: SubjectTable, actor: str) -> bytes | None:
    subject = subjects.get(actor)
    return None if subject is None else subject.key


def _walk(pointer: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value below `value` with its JSON pointer (RFC 6901)."""
    yield pointer, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}", inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _walk(f"{pointer}/{index}", inner)
